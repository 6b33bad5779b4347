"""What a representation is worth: protocols, heads, judgement."""
