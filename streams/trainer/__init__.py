"""Retraining: requests to jobs, jobs to candidates, candidates through the gate and the shadow to champions.

``streams.trainer.trainer`` is the process on Kafka, ``streams.trainer.embedded`` the form for a host in one process.
"""
