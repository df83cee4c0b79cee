"""Records and scores of cases on disk; nothing here imports torch."""
