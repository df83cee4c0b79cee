"""Plan -> runs; one run is stages 3 to 6."""
