"""Between stages 1 and 2: cases -> arrays of one size, once, keyed by content."""
