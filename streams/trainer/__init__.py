"""Retraining: requests to jobs, jobs to candidates, candidates through the gate and the shadow to champions.

``weir.streams.trainer.trainer_process`` is the process on Kafka; ``weir demo`` hosts a task's trainer by itself.
"""
