"""One visible loop, and what stands around it."""
