"""Physics of signals: leads, conditioning, filters, quality, noise."""
