"""The worker: lanes on Kafka partitions, their rows in Redis. `run` puts one together."""

from streams.worker.run import run_worker

__all__ = ["run_worker"]
