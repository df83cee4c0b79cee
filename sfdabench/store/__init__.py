"""STAGE 6: records on disk; imports no torch."""
