"""A broker and Redis servers of a benchmark's own, on free ports, ended with it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.integration.kafka_broker import Broker, NoKafka, find_broker
from tests.integration.redis_server import NoRedis, RedisServer


def start_broker(stack: ExitStack, folder: Path) -> Broker:
    """Start a broker."""
    try:
        broker = find_broker(folder)
        broker.start()
    except NoKafka as reason:
        raise SystemExit(str(reason)) from None
    stack.callback(broker.stop)
    return broker


def start_redis(stack: ExitStack, folder: Path, *, durable: bool) -> str:
    """Start a Redis, with AOF every second if ``durable``; its URL."""
    try:
        server = RedisServer(folder, aof=durable).start()
    except NoRedis as reason:
        raise SystemExit(str(reason)) from None
    stack.callback(server.stop)
    return server.url
