"""What several papers share: losses, teachers, batch-norm statistics, views."""
