"""Runs ``weir`` and notes which of its modules a batch passes; `benchmarks.way` starts it. Of Weir it imports nothing.

Run: ``python -P way_probe.py FILE worker --config ...``. A way begins where a fetch of a partition is drained, and ends
where `ops.metrics` is told that a batch's predictions were acknowledged, or that a batch of labels is complete. Each
way is one line of JSON in FILE: the topic, and modules in the order in which they were entered, by any thread.
"""

from __future__ import annotations

import json
import runpy
import sys
import threading
from importlib.util import find_spec
from types import FrameType
from typing import Any, Final

OURS: Final = ("streams.", "online.", "models.")
ENDS: Final = {("latency", "user-events"), ("completed", "labels"), ("completed", "predictions")}
"""Methods of `ops.metrics`, and the topics whose way ends there."""
BESIDE: Final = ("streams.ops", "streams.kafka.reachable", "streams.transport.outage")
"""Where tasks begin that run beside every way: watchdog, reconnection."""
APART: Final = (
    "streams.worker.lanes.update_partition", "streams.worker.side", "streams.model_replicas.follower",
    "streams.following.follower",
)  # fmt: skip
"""What takes the updates, and learns from the examples, that the record before led to."""


class Probe:
    """Sees every call of the process."""

    def __init__(self, path: str) -> None:
        self._out = open(path, "a", buffering=1)  # noqa: SIM115, PTH123 - as long as the process
        self._ways: dict[str, dict[str, None]] = {}
        """Under way, by topic: modules in the order of their first entry."""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """What `sys.setprofile` calls."""
        name, module = frame.f_code.co_name, _module(frame)
        if event != "call" or not module.startswith(OURS) or not (self._ways or name == "drain"):
            return
        if name == "drain" and (fetched := frame.f_locals.get("result")) is not None and frame.f_back is not None:
            self._ways[_own(fetched._topic_partition.topic)] = {_module(frame.f_back): None}
        stack = _stack(frame)
        if not stack[-1].startswith(BESIDE) and not any(module in APART for module in stack):
            for way in list(self._ways.values()):
                way.setdefault(module)
            if module == "streams.ops.metrics":
                self._end(name, frame.f_locals)

    def _end(self, name: str, told: dict[str, Any]) -> None:
        batch = told.get("batch")
        topic = _own(batch.topic if batch is not None else str(told.get("topic")))
        if (name, topic) in ENDS:
            self._out.write(json.dumps({"topic": topic, "modules": list(self._ways.pop(topic, {}))}) + "\n")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).removeprefix("weir.")


def _stack(frame: FrameType) -> list[str]:
    """The modules of ours that a call is in, innermost first, out to where its task, callback or thread began."""
    found, outer = [_module(frame)], frame.f_back
    while outer is not None and _module(outer) != "asyncio.events":
        if _module(outer).startswith(OURS):
            found.append(_module(outer))
        outer = outer.f_back
    return found


def _own(topic: str) -> str:
    return topic.rpartition(".")[2]


if __name__ == "__main__":
    probe = Probe(sys.argv[1])
    sys.argv = ["weir", *sys.argv[2:]]
    threading.setprofile(probe)
    sys.setprofile(probe)
    runpy.run_module("weir.streams.cli.main" if find_spec("weir") else "streams.cli.main", run_name="__main__")
