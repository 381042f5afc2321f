"""Commands that need neither Kafka nor Redis."""
