"""A worker process for test_transport.py: copies ``--source`` to ``--target``, record by record, through the transport.

The copy of a record says where it came from: ``source partition:source offset:pid:value``. Prints one JSON line per
rebalance and per batch, so that a test can see pauses without asking the broker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from weir.streams.config.settings import load_settings
from weir.streams.kafka.consume.app import BatchApp
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.records import Record


def say(**what: object) -> None:
    print(json.dumps({"t": time.time(), "pid": os.getpid(), **what}), flush=True)


def copies(batch: FetchedBatch) -> list[Record]:
    return [
        Record(r.key, b"%d:%d:%d:%s" % (batch.partition, batch.offset_of(i), os.getpid(), r.value), r.ts)
        for i, r in enumerate(batch.records)
    ]


async def complete_after(app: BatchApp, batch: FetchedBatch, delivery: asyncio.Future[Any]) -> None:
    """Complete a batch once its copies are acknowledged; an error of the brokers stops the worker."""
    try:
        await delivery
    except Exception as error:  # noqa: BLE001 - whatever it is, it stops the worker
        await app.crash(error)
    else:
        app.batch_consumer.complete(batch)


class Rewinds:
    """Rewinds a random partition to a random offset after every second batch or so, ``left`` times."""

    def __init__(self, left: int, within: int) -> None:
        self._left, self._within, self._random = left, within, random.Random(left)

    def maybe(self, app: BatchApp) -> None:
        if self._left and self._random.random() < 0.5:
            self._left -= 1
            tp = self._random.choice(sorted(app.batch_consumer.assignment()))
            offset = self._random.randrange(self._within)
            assert app.batch_consumer.rewind(tp, offset)
            say(rewound=[tp.partition, offset])


def build(args: argparse.Namespace) -> BatchApp:
    fields = {"max_batch": args.max_batch, "commit_interval_s": 0.1, "when_deleted": args.when_deleted}
    if args.session_timeout_s:
        fields |= {"session_timeout_s": args.session_timeout_s, "request_timeout_s": args.session_timeout_s + 5}
    if args.hook_timeout_s:
        fields["hook_timeout_s"] = args.hook_timeout_s
    settings = load_settings(args.config, bootstrap=None if args.config else args.bootstrap)
    app = BatchApp.from_settings(settings, args.group, args.instance_id, **fields)

    holds = [args.first_until] if args.first_until else []

    waiting: set[asyncio.Future[None]] = set()

    async def copy(stream: Any) -> None:
        async for batch in stream:
            if not app.batch_consumer.take(batch):
                continue
            in_flight = app.batch_consumer.offsets.in_flight((batch.topic, batch.partition))
            say(batch=[batch.partition, batch.base_offset, len(batch.records)], in_flight=in_flight)
            if any(r.value == b"poison" for r in batch.records):
                raise RuntimeError("a record that the stage cannot take")
            while holds and not holds[0].exists():
                await asyncio.sleep(0.02)
            holds.clear()
            await asyncio.sleep(args.delay_s)
            delivery = await app.records.send(args.target, copies(batch))
            waiting.add(task := asyncio.ensure_future(complete_after(app, batch, delivery)))
            task.add_done_callback(waiting.discard)
            rewinds.maybe(app)

    rewinds = Rewinds(args.rewinds, args.rewind_within)
    starts = {TP(args.source, int(p)): offset for p, offset in json.loads(args.starts).items()}

    async def start_offsets(assigned: set[TP]) -> dict[TP, int]:
        say(asked=sorted(partition for _, partition in assigned))
        if args.start_fails == "raise":
            raise RuntimeError("the store is not there")
        if args.start_fails == "hang":
            await asyncio.Event().wait()
        return {tp: offset for tp, offset in starts.items() if tp in assigned}

    async def on_revoked(revoked: set[TP]) -> None:
        say(revoked=sorted(partition for _, partition in revoked), working=len(app.batch_consumer.offsets.working()))

    app.start_offsets, app.on_revoked = start_offsets, on_revoked
    app.agent(app.batch_topic(args.source))(copy)

    async def assigned(_sender: object, *args: Any, **_: object) -> None:
        say(assigned=sorted(partition for _, partition in args[0]))

    connect: Any = app.on_partitions_assigned.connect
    connect(assigned)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "group", "source", "target"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--instance-id")
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--first-until", type=Path, help="the first batch is in work until this file is there")
    parser.add_argument("--max-batch", type=int, default=500)
    parser.add_argument("--when-deleted", default="stop")
    parser.add_argument("--session-timeout-s", type=float)
    parser.add_argument("--hook-timeout-s", type=float)
    parser.add_argument("--starts", default="{}")
    parser.add_argument("--start-fails", choices=["raise", "hang"])
    parser.add_argument("--rewinds", type=int, default=0)
    parser.add_argument("--rewind-within", type=int, default=1)
    parser.add_argument("--loglevel", default="WARNING")
    args = parser.parse_args()
    say(start=args.group)
    faust.Worker(build(args), loglevel=args.loglevel, redirect_stdouts=False, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
