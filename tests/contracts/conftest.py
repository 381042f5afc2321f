"""The real Kafka and Redis of the integration tests, for contracts that both kinds of adapters keep."""

from tests.integration.conftest import kafka, redis_server

__all__ = ["kafka", "redis_server"]
