"""STAGE 5: predict, metrics, protocols, aggregate."""
