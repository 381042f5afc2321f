"""The commands that talk to Kafka, run in this process; and the records that their tests write."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaConsumer
from typer.testing import CliRunner

from tests.integration.kafka_broker import REPOSITORY
from weir.online.errors import WeirError
from weir.streams.cli.app import app
from weir.streams.config.settings import KafkaSettings
from weir.streams.kafka.admin.clients import admin_client, producer
from weir.streams.kafka.admin.reader import Start, read_present

T0 = 1_700_000_000.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Its output, one JSON object a line."""
        return [orjson.loads(text) for text in self.out.splitlines()]


class Weir:
    """Runs ``weir`` in this process, as ``weir.streams.cli.main.run`` would."""

    def __init__(self, settings: KafkaSettings, environ: dict[str, str]) -> None:
        self.settings, self.environ = settings, environ

    def __call__(self, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(arguments), env=self.environ | (env or {}), input=stdin)
        if isinstance(result.exception, WeirError):
            return Outcome(2, result.stdout, f"{result.stderr}error: {result.exception}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of its own, for signals."""
        command = [sys.executable, "-P", "-m", "weir.streams.cli.main", *arguments]
        environ = os.environ | self.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environ, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self, topic: str) -> list[Any]:
        """Every record that is in a topic now, by kafka-python itself: with its headers."""
        client = KafkaConsumer(**self.settings.client_options("test"), group_id=None)
        with closing(client):
            return list(read_present(client, topic, Start(None)))

    def make(self, topic: str, partitions: int = 3) -> str:
        with admin_client(self.settings) as admin:
            admin.create_topics(
                {topic: {"num_partitions": partitions, "replication_factor": 1}}, wait_for_metadata=True
            )
        return topic

    def write(self, topic: str, records: list[tuple[bytes | None, bytes]]) -> list[tuple[int, int]]:
        """Append records; where each went."""
        with producer(self.settings, "test") as client:
            sent = [client.send(topic, value=value, key=key) for key, value in records]
            return [(found.partition, found.offset) for found in (future.get() for future in sent)]


def event(number: int, ts: float = T0, user: str = "u1", **more: Any) -> bytes:
    fields = {"v": 1, "event_id": f"e{number}", "type": "purchase", "user_id": user, "ts": ts, "amount": 5.0}
    return orjson.dumps(fields | more)


def lines_of(path: Path, values: list[bytes]) -> str:
    path.write_bytes(b"".join(value + b"\n" for value in values))
    return str(path)
