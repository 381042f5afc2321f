"""One ``weir worker`` at a time for tests of its behaviour: started, watched, ended, never restarted behind one's back.

`Worker` is the process and what it said; `Watcher` knows how far every lane is, by Redis and Kafka, not by the worker's
own word; `run_weir` is any other command of ``weir``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from typer.testing import CliRunner

from tests.integration.chaos.deployment import Deployment
from tests.integration.forked import start
from tests.integration.kafka_broker import eventually
from weir.online.errors import WeirError
from weir.streams.cli.app import app
from weir.streams.config import topics
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.reachable import disconnect
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_record import decode_record
from weir.streams.redis.stored_rows import lane_prefix

PATIENCE_S = 120.0
"""For what takes a second or two on a quiet machine."""
Place = tuple[str, int]
_T = TypeVar("_T")
TELLS_KERNELS = {"NUMBA_DEBUG_CACHE": "1", "PYTHONUNBUFFERED": "1"}
"""Environment in which a worker says which kernels it compiles or reads from disk, and when."""
_WEB = re.compile(r"metrics at (http://\S+)")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
_ROWS = (topics.USER_EVENTS, topics.DEVICE_EVENTS, topics.ENTITY_UPDATES)
_LABELLED = (topics.LABELS, topics.PREDICTIONS)


class Worker:
    """One process of ``weir worker``; a context manager that kills it when the test leaves it running.

    Parameters
    ----------
    deployment : settings and tasks.
    log : where it writes.
    arguments : of the command, beyond the settings file.
    environment : added to ours.
    """

    def __init__(self, deployment: Deployment, log: Path, *arguments: str, **environment: str) -> None:
        self._path, self.started_at = log, time.monotonic()
        with log.open("ab") as out:
            all_of_it = {**os.environ, **_ONE_THREAD, "PYTHONFAULTHANDLER": "1", **environment}
            self.process = start(deployment.command(*arguments), all_of_it, out)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._path.read_text(errors="replace")

    def late_kernels(self) -> list[str]:
        """What was compiled, or read from disk, once it had partitions; it was started with ``TELLS_KERNELS``."""
        before, after = self.log.split("partitions assigned", 1)
        assert "[cache] " in before, "it does not tell"
        return [line for line in after.splitlines() if line.startswith("[cache] ")]

    def until(self, what: Callable[[], object], why: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait for something that the worker will make true; fails with the end of its log, at once when it ends."""
        try:
            eventually(lambda: what() or self.process.poll() is not None, timeout_s, why)
            assert self.process.poll() is None or what(), f"{why}, but it ended with {self.process.returncode}"
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self._told()}{self._path}:\n{self.log[-8000:]}") from None

    def _told(self) -> str:
        """What it says of itself when it is late; its log then ends with what each of its threads was doing."""
        if self.process.poll() is not None:
            return ""
        said = ""
        if found := _WEB.search(self.log):
            try:
                with urllib.request.urlopen(f"{found[1]}/ready", timeout=10) as answer:
                    said = f"/ready: {answer.read().decode()}\n"
            except urllib.error.HTTPError as refused:
                with refused:
                    said = f"/ready: {refused.read().decode()}\n"
            except OSError as error:
                said = f"/ready: {error}\n"
        self.process.send_signal(signal.SIGABRT)
        self.process.wait(PATIENCE_S)
        return said

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit status, once it has one."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout_s:g} s\n{self._path}:\n{self.log[-4000:]}") from None

    # -- its web endpoints ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where its endpoints are, of a worker with ``web_port = "auto"``; waits until it says so."""
        self.until(lambda: "metrics at http" in self.log, "it says where its endpoints are")
        found = _WEB.search(self.log)
        assert found is not None
        return found[1]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def ready(self) -> bool:
        """Whether it says that it does its work."""
        return self.get("/ready")[0] == 200


class Watcher:
    """How far the lanes of a deployment are, asked over links that stay open; a context manager.

    A lane's position, as Redis has it, is behind what was acknowledged and written. Positions are read before the ends
    of the logs: where each is at its end, nothing was under way in between.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._streams = {task.stream for task in deployment.tasks.values()}

    def __enter__(self) -> Watcher:
        self._runner = asyncio.Runner()
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something in the loop of the links."""
        return self._runner.run(work)

    async def _open(self) -> None:
        settings = self.deployment.settings
        self._stack = AsyncExitStack()
        self.link = RedisClient(settings.redis, patience_s=5.0, prefix=settings.redis.prefix)
        self._stack.push_async_callback(self.link.stop)
        await self.link.start(writes=False)
        self._readers = {
            own: await self._stack.enter_async_context(
                RangeReader(settings.kafka.client_options("watch"), settings.topics.name(own))
            )
            for own in (*_ROWS, *_LABELLED)
            if own in self._streams or own not in (topics.USER_EVENTS, topics.DEVICE_EVENTS)
        }
        self._ends = AIOKafkaConsumer(
            **settings.kafka.client_options("watch"), group_id=None, isolation_level="read_committed"
        )
        self._stack.push_async_callback(disconnect, self._ends)
        await self._ends.start()
        producer = BatchProducer(TransportSettings(bootstrap=self.deployment.direct, group="tests"))
        await producer.start()
        self._stack.push_async_callback(producer.stop)
        self._producer = producer

    def send(self, own: str, records: Sequence[tuple[bytes, bytes]], ts: float | None = None) -> None:
        """Write keys and values to a topic; returns when the brokers have them. ``ts`` is now when not given."""
        now = time.time() if ts is None else ts
        made = [Record(key, value, now) for key, value in records]
        self.run(self._producer.send_and_wait(self.deployment.settings.topics.name(own), made))

    def send_to(
        self, own: str, partition: int, records: Sequence[tuple[bytes, bytes]], ts: float | None = None
    ) -> None:
        """Write keys and values to one partition, whatever the keys. ``ts`` is now when not given."""
        now = time.time() if ts is None else ts
        made = [Record(key, value, now) for key, value in records]

        async def send() -> None:
            await (await self._producer.send_to(self.deployment.settings.topics.name(own), partition, made))

        self.run(send())

    def spread(self, own: str, records: Sequence[tuple[bytes, bytes]], partitions: int) -> None:
        """Write values without keys to the partitions in turn."""
        made = [Record(b"", value, time.time()) for _, value in records]

        async def send() -> None:
            name = self.deployment.settings.topics.name(own)
            for sent in [await self._producer.send_to(name, p, made[p::partitions]) for p in range(partitions)]:
                await sent

        self.run(send())

    def behind(self) -> dict[Place, tuple[int | None, int]]:
        """Position and end of every partition that is not processed to its end; empty when all is done."""
        return self.run(self._behind())

    async def _behind(self) -> dict[Place, tuple[int | None, int]]:
        places = [(own, p) for own, reader in self._readers.items() for p in reader.partitions()]
        found: dict[Place, int] = {}
        for own, partition in places:
            if own in _ROWS:
                found |= await self._row_position((own, partition))
            elif own == topics.LABELS:
                found |= await self._label_positions(partition)
        lanes = [TopicPartition(self._readers[own].topic, partition) for own, partition in places]
        told = await self._ends.end_offsets(lanes)  # of all at once: this is asked many times
        ends = {place: int(told[lane]) for place, lane in zip(places, lanes, strict=True)}
        return {at: (found.get(at), end) for at, end in ends.items() if end and (found.get(at) or 0) < end}

    async def _row_position(self, place: Place) -> dict[Place, int]:
        value = await self.link.execute("GET", f"{lane_prefix(self.link.prefix, place)}lane")
        return {} if value is None else {place: decode_record(value).next_offset}

    async def _label_positions(self, partition: int) -> dict[Place, int]:
        stored = await StepLog(self.link, f"label-{partition}").load()
        if stored.done < stored.next_step - 1:  # what a step made is not acknowledged yet
            return {}
        positions: dict[str, int] = {}
        if stored.snapshot is not None:
            positions = dict(msgspec.msgpack.decode(stored.snapshot)["positions"])
        positions |= {step.topic: step.stop for step in stored.steps}
        return {(topic, partition): offset for topic, offset in positions.items()}

    def settle(self, worker: Worker, why: str = "everything is processed") -> None:
        """Wait until a worker has nothing left to do."""
        late: dict[Place, tuple[int | None, int]] = {}

        def done() -> bool:
            late.clear()
            late.update(self.behind())
            return not late

        try:
            worker.until(done, why)
        except AssertionError as error:
            raise AssertionError(f"behind (position, end): {late}; {error}") from None

    def rows(self) -> dict[str, bytes]:
        """Every row of every lane, by its key in Redis; journals, snapshots and lane records are not rows."""
        return self.run(self._rows())

    async def _rows(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for own, reader in self._readers.items():
            for partition in reader.partitions() if own in _ROWS else ():
                base = lane_prefix(self.link.prefix, (own, partition))
                keys = [key.decode() for key in await self._keys(f"{base}*")]
                rows = sorted(key for key in keys if key.removeprefix(base) not in ("lane", "journal"))
                for key in rows:
                    found[key] = await self.link.execute("GET", key)
        return found

    async def _keys(self, pattern: str) -> list[bytes]:
        cursor, keys = b"0", list[bytes]()
        while True:
            cursor, page = await self.link.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            keys += page
            if cursor == b"0":
                return keys


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its output as JSON."""
        return orjson.loads(self.out)


def run_weir(deployment: Deployment, *arguments: str) -> Outcome:
    """Run a command of ``weir`` on a deployment, in this process, as ``weir.streams.cli.main.run`` would."""
    result = CliRunner().invoke(app, [*arguments, "--config", str(deployment.config)])
    if isinstance(result.exception, WeirError):
        return Outcome(2, result.stdout, f"{result.stderr}error: {result.exception}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)
