"""Figures from the store, one module a kind; imports no torch, and matplotlib only to draw."""
