"""Tables of codes as CSV files: what a challenge scores, which codes mean the same. See README.md for their origin."""
