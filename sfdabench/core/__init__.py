"""The vocabulary of the suite; imports nothing else of ours."""
