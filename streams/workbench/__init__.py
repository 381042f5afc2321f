"""At a desk, without a broker: profile a table, try tasks on it, compare them, find better ones, show what they do."""
