"""A browser for ECGs: a small server on this machine, and one page that needs nothing from elsewhere."""
