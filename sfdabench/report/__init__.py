"""STAGE 7: tables from the store; imports no torch."""
