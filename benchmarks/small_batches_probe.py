"""Runs one checkout in small batches and says how long it took; `bench_small_batches` starts it.

Run: ``python -P small_batches_probe.py`` in a checkout, with PYTHONPATH at it; also one from before its packages were
called ``weir.*``. Each line of its input is a pass, of its output that pass's processor microseconds a row:

- ``{"task": TEXT, "rows": n, "size": k, "labelled": true}``: n events through the embedded host of that task, k at a
  time, each batch followed by the labels of its rows where they are asked for; the host stays, with what it learned;
- ``{"backtest": TASK FILE, "rows": n, "data": FILE}``: the command ``weir backtest`` over the n rows of a file.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

START: Final = 1.7e9
APART_S: Final = 13.0
"""Between two events."""
USERS: Final = 5_000
NEW: Final = Path("weir").is_dir()
"""Whether this checkout's packages are inside ``weir``."""


def found(new: str, old: str, name: str) -> Any:
    """What a name stands for in this checkout."""
    return getattr(import_module(f"weir.{new}" if NEW else old), name)


class Stream:
    """A host of one task, and the events and labels that it gets."""

    def __init__(self, task: str) -> None:
        self._log = found("streams.embedded.embedded_log", "streams.log", "EmbeddedLog")()
        spec = found("online.task.spec", "online.task", "TaskSpec").from_toml(task)
        self._host = found("streams.embedded.embedded_host", "streams.host", "EmbeddedHost")([spec], self._log)
        self._record = found("streams.records", "streams.log", "Record")
        self._rng = np.random.default_rng(7)
        self._n = 0

    def run(self, size: int, rows: int, *, labelled: bool) -> float:
        """One pass; microseconds of the processor a row, without those of making the records."""
        batches = list(self._batches(size, rows))
        before = self._host.stats.predictions, self._host.stats.examples
        gc.collect()
        start = time.process_time()
        for events, labels in batches:
            logged = self._log.append("user-events", events)
            if labelled:
                logged += self._log.append("labels", labels)
            for batch in logged:
                self._host.process(batch)
            self._log.forget(self._log.next_seq)
        took = time.process_time() - start
        after = self._host.stats.predictions, self._host.stats.examples
        if after != (before[0] + rows, before[1] + rows * labelled):
            raise SystemExit(f"error: of {rows} rows, predictions and examples went from {before} to {after}")
        return 1e6 * took / rows

    def _batches(self, size: int, rows: int) -> Iterator[tuple[list[Any], list[Any]]]:
        for first in range(0, rows, size):
            made = [self._row() for _ in range(min(size, rows - first))]
            yield [event for event, _ in made], [label for _, label in made]

    def _row(self) -> tuple[Any, Any]:
        """An event and its label, as records."""
        self._n += 1
        user, event_id = f"u{int(self._rng.integers(USERS))}", f"e{self._n:09d}"
        ts, amount = START + APART_S * self._n, round(float(self._rng.lognormal(3.2, 0.8)), 2)
        event = {"v": 1, "event_id": event_id, "type": "purchase", "user_id": user, "ts": ts, "amount": amount}
        event |= {"merchant_id": f"m{self._n % 997}", "device_id": f"d{self._n % 1511}", "channel": "web"}
        label = {"v": 1, "label_id": f"l{self._n}", "task": "fraud", "event_id": event_id, "entity_id": user, "ts": ts}
        label |= {"value": int(amount * self._rng.lognormal(0.0, 0.3) > 60.0)}
        return tuple(self._record(user.encode(), orjson.dumps(each), ts) for each in (event, label))


def backtest(task: str, data: str, rows: int) -> float:
    """One command; microseconds of the processor a row."""
    run = found("streams.cli.main", "streams.cli.main", "run")
    sys.argv = ["weir", "backtest", task, "--data", data]
    told, start = StringIO(), time.process_time()
    with redirect_stdout(told), redirect_stderr(told):
        try:
            run()
        except SystemExit as ended:
            if ended.code:
                raise SystemExit(f"error: weir backtest {task}: {told.getvalue()}") from ended
    return 1e6 * (time.process_time() - start) / rows


def main() -> None:
    """Answer passes until there are no more."""
    streams: dict[str, Stream] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "backtest" in asked:
            took = backtest(asked["backtest"], asked["data"], asked["rows"])
        else:
            task = asked["task"]
            if task not in streams:
                streams[task] = Stream(task)
            took = streams[task].run(asked["size"], asked["rows"], labelled=asked["labelled"])
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
