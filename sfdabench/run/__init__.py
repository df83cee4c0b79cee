"""One run: from a request to a plan, its stages, their scores, and a record."""
