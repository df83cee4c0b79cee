"""STAGE 7: tables and figures from the store; imports no torch."""
