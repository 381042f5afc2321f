"""What Redis holds of one partition: rows, checkpoint, journal."""
