"""What ``weir demo`` does: a simulated world, three tasks, a screen, and an embedded log that outlives it."""
