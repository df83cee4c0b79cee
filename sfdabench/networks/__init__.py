"""Segmenters. One file per network."""
