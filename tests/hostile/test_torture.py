"""`benchmarks/torture` on a real Kafka and Redis: hostile records among good traffic while workers are killed.

25 s in CI; ``WEIR_TORTURE_SECONDS=300`` for the long run, ``WEIR_TORTURE_SEED`` for another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture.torture_run import Place, Plan, torture
from tests.integration.kafka_broker import Broker
from tests.integration.redis_server import RedisServer
from weir.streams.config.settings import load_settings

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("WEIR_TORTURE_SECONDS", "25"))
SEED = int(os.environ.get("WEIR_TORTURE_SEED", "1"))
RATE = float(os.environ.get("WEIR_TORTURE_RATE", "2000"))


def test_hostile_records_change_nothing_for_good_ones(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    config = tmp_path / "weir.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka.address}"\n[redis]\nurl = "{new_redis(aof=True).url}"\n')
    plan = Plan(seconds=SECONDS, seed=SEED, rate=RATE)
    verdict = torture(Place.beside(load_settings(config, {}), config, plan), plan, print)
    print(verdict.numbers)
    assert not verdict.failures, "\n".join(verdict.failures)
