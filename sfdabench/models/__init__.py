"""Modules: the segmenter that methods call, and what networks are built from."""
