"""STAGE 4: one file per method, nothing else."""
