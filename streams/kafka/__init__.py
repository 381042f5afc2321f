"""Kafka: consuming, producing, and administration. Nothing else in ``streams`` speaks to brokers."""
