"""Hostile records among good traffic while workers are killed: what ``weir torture`` and ``tests/hostile`` run."""
