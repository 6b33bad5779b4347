"""What several backbones are made of."""
