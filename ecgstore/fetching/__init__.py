"""Open sets from elsewhere, verified."""
