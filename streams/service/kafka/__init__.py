"""The service beside a Kafka fleet: records are published, outputs are tailed, workers run the tasks."""
