"""Retraining: requests to jobs, jobs to candidates, candidates through the gate and the shadow to champions.

``weir.streams.trainer.trainer_process`` is the process on Kafka, ``weir.streams.trainer.embedded_trainer`` the form for
a host in one process.
"""
