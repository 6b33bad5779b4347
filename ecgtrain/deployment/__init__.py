"""From a run to a hospital: a head with all it needs in one folder, and what it says of recordings."""
