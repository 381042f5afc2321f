"""The worker: lanes on Kafka partitions, their rows in Redis. `run` puts one together."""

from streams.worker.rebuild import rebuild
from streams.worker.run import run_worker

__all__ = ["rebuild", "run_worker"]
