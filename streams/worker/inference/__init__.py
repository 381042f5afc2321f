"""The full model on other machines: rows out through Kafka, answers back in time or not at all."""
