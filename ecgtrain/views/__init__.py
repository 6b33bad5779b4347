"""What a method looks at: draws, augmentations, masks, normalisation, and the passport that says how."""
