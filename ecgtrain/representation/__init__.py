"""The backbone that came out: exported, loaded, its features, its nulls."""
