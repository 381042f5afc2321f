"""What trainings see of a history: cut at a time, split by time, and as sequences of each entity's events."""
