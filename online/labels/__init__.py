"""Labels: join them with what was logged at scoring, sample negatives, and read labels from silence."""
