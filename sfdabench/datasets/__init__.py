"""STAGE 1: authors' files -> Case, image, label. One file per data set."""
