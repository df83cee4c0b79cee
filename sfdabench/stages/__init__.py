"""Source-side stages: how a source model comes about. One file a stage."""
