"""Which topics and which partitioner the stored state belongs to."""
