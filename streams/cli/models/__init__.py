"""Commands about offline models: their registry, their training and its data."""
