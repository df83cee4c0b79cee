"""Synthetic anatomies that the adapters write in the authors' own layout."""
