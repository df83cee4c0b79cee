"""STAGE 3: recipe -> source model with a content hash."""
