"""The real Kafka and Redis of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import kafka, new_redis, restartable_kafka

__all__ = ["kafka", "new_redis", "restartable_kafka"]
