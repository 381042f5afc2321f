"""One deployment for a test: a settings file, topics under a prefix of its own, and the command that runs a worker."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.torture import deployment
from tests.integration.kafka_broker import Broker
from weir.streams.config.settings import load_settings
from weir.streams.kafka.admin import cluster
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.kafka.admin.topic_specs import wanted_topics
from weir.streams.records import Record
from weir.streams.task_files import load_task

TASKS = Path(__file__).parent / "tasks"
__all__ = ["FAST", "TASKS", "Deployment", "StoredRecord"]

FAST: Mapping[str, Any] = {
    "commit_interval_s": 0.2, "snapshot_every_s": 3.0, "idle_after": 0,
    "decisions": True,
    "label_bytes": 1 << 20,  # so that labels meet predictions that have to be read back
}  # fmt: skip
"""Settings of workers under test: often enough to happen many times in a minute; and no time passes without events, as
the linear pass that they are compared with knows none."""


class StoredRecord(NamedTuple):
    """A record and where it is."""

    offset: int
    record: Record


@dataclass(frozen=True)
class Deployment(deployment.Deployment):
    """Settings and tasks; the file is what workers read. ``settings`` are those of the file, but with the brokers and
    the Redis that the test itself talks to, past any proxy."""

    config: Path

    def read(self, topic: str) -> dict[int, list[StoredRecord]]:
        """Everything in one of Weir's topics now, by partition."""
        return asyncio.run(self._read(topic))

    async def _read(self, topic: str) -> dict[int, list[StoredRecord]]:
        found: dict[int, list[StoredRecord]] = defaultdict(list)
        async for partition, piece in self.pieces(topic):
            found[partition] += map(StoredRecord, piece.offsets, piece.records)
        return found

    def ends(self, *names: str) -> Mapping[tuple[str, int], int]:
        """Where the partitions of these topics of Weir's end now; of all topics without a name."""
        return asyncio.run(self.ends_now(*names))

    @property
    def direct(self) -> str:
        """Brokers, past any proxy."""
        return ",".join(self.settings.kafka.bootstrap)

    @classmethod
    def create(
        cls,
        folder: Path,
        kafka: Broker,
        redis_url: str,
        *,
        prefix: str,
        partitions: int = 4,
        tasks: tuple[str | Path, ...] = ("fraud", "spend", "quiet"),
        replication: int = 1,
        worker: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        worker_redis_url: str | None = None,
        redis_prefix: str | None = None,
    ) -> Deployment:
        """Write the settings file and make the topics.

        Parameters
        ----------
        tasks : names of files in tasks/, or paths.
        redis_url, worker_redis_url : where Redis is, and where workers are told that it is, if that differs.
        redis_prefix : of keys, where it is not that of the topics.
        """
        files = [TASKS / f"{task}.toml" if isinstance(task, str) else task for task in tasks]
        tables: dict[str, dict[str, Any]] = {
            "kafka": {"bootstrap": kafka.direct},
            "redis": {"url": redis_url, "prefix": redis_prefix or prefix},
            "topics": {"partitions": partitions, "replication": replication, "prefix": f"{prefix}."},
            "worker": {"group": prefix, "tasks": [str(f) for f in files], "web_port": 0, **FAST, **(worker or {})},
            "limits": dict(limits or {}),
        }
        config = folder / f"{prefix}.toml"
        config.write_text(_toml(tables))
        settings = load_settings(config, {})
        with admin_client(settings.kafka) as admin:
            cluster.create_topics(admin, wanted_topics(settings.topics, replication), False)
        tables["kafka"]["bootstrap"] = kafka.address
        tables["redis"]["url"] = worker_redis_url or redis_url
        config.write_text(_toml(tables))
        return cls(settings, {t.name: t for t in map(load_task, files)}, config)

    def command(self, *args: str) -> list[str]:
        """How to start one worker."""
        return [sys.executable, "-P", "-m", "weir.streams.cli.main", "worker", "--config", str(self.config), *args]


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"
