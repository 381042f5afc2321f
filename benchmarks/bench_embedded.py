"""The whole embedded scoring path, and the window kernel alone, stage by stage.

The work is that of the peers (validate, dedupe, 12 features over 1, 7 and 30 days, score, publish with features,
learn from 2 % labels), with Weir's state in packed rows, alerts decided and drift watched on top. Beside it runs the
same work without those two, written the usual way: pydantic, deques, River and orjson, one event at a time.

Time is CPU time of this one-threaded process, so that other load on the machine weighs less; the wall is shown too.

Run: ``python -m benchmarks.bench_embedded [--events 400000] [--repeats 3]``. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from river import linear_model, preprocessing

from weir.online.batch import EventBatch
from weir.online.codec.wire import Label, UserEvent
from weir.online.features.engine import FeatureEngine
from weir.online.features.plan import build_plan
from weir.online.stages.admission import DECODERS
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded import embedded_host as host_module
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.records import Record

DAY = 86_400.0
START = 1.7e9
BATCH = 2048
EVENTS_TARGET, KERNEL_TARGET, ROW_TARGET = 80_000, 1_000_000, 1024

TASK = """
name = "fraud"
entity = "user"
inputs = ["amount", "hour", "night", "weekend", "user.*"]
indicators = false

[[entities]]
name = "user"
key = "user_id"

[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean"]
windows = ["1d", "7d", "30d"]

[[entities.aggregates]]
name = "since"
ops = ["since_last"]

[[entities.aggregates]]
name = "own"
value = "amount"
ops = ["over_ewmean"]
half_life = "30d"

[model]
kind = "logistic"

[threshold]
kind = "budget"
alerts_per_day = 10
"""


@dataclass
class Watch:
    """Seconds spent in named stages; a stage inside another is taken out of the outer one."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[float] = field(default_factory=list)

    def wrap(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._open.append(0.0)
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.process_time() - start
                self.seconds[stage] += took - self._open.pop()
                if self._open:
                    self._open[-1] += took

        return timed


def workload(events: int, seed: int = 7, users: int = 5_000) -> tuple[list[list[Record]], list[list[Record]]]:
    """Batches of event and label records like those of the peers' workload."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, users)
    who = rng.choice(users, events, p=activity / activity.sum()).tolist()
    ts = (START + np.sort(rng.uniform(0, 60 * DAY, events))).tolist()
    amount = np.round(rng.lognormal(3.2, 0.8, events), 2).tolist()
    labelled = (rng.uniform(size=events) < 0.02).tolist()
    event_batches, label_batches = [], []
    for start in range(0, events, BATCH):
        event_batch, label_batch = [], []
        for i in range(start, min(start + BATCH, events)):
            user, event_id = f"u{who[i]}", f"e{seed}-{i:09d}"
            event = {
                "v": 1, "event_id": event_id, "type": "purchase", "user_id": user, "ts": ts[i], "amount": amount[i],
                "merchant_id": f"m{i % 997}", "device_id": f"d{who[i] % 1511}", "channel": "web",
            }  # fmt: skip
            event_batch.append(Record(user.encode(), orjson.dumps(event), ts[i]))
            if labelled[i]:
                label = {
                    "v": 1, "label_id": f"l{i}", "task": "fraud", "event_id": event_id, "entity_id": user, "ts": ts[i],
                    "value": int(amount[i] > 120),
                }  # fmt: skip
                label_batch.append(Record(user.encode(), orjson.dumps(label), ts[i]))
        event_batches.append(event_batch)
        label_batches.append(label_batch)
    return event_batches, label_batches


def instrument(host: EmbeddedHost, watch: Watch) -> Iterator[tuple[Any, str, Any]]:
    """Wrap every stage of a host; yields what was replaced on modules, to put it back."""
    for name in ("decode_labels_in_time", "records_of"):
        original = getattr(host_module, name)
        stage = "encode outputs" if name == "records_of" else "decode + columns"
        setattr(host_module, name, watch.wrap(stage, original))
        yield host_module, name, original
    decoders = DECODERS
    original = dict(decoders)
    decoders[topics.USER_EVENTS] = watch.wrap("decode + columns", original[topics.USER_EVENTS])
    yield decoders, topics.USER_EVENTS, original[topics.USER_EVENTS]
    host.log.append = watch.wrap("log append", host.log.append)  # type: ignore[method-assign]
    for pipeline in host.pipelines.values():
        places: list[tuple[Any, str, str]] = [
            (pipeline.engine, "process", "features"),
            (host.store, "load", "store"),
            (host.store, "save", "store"),
            (pipeline.model, "score", "score"),
            (pipeline.model, "learn", "learn"),
            (pipeline.joiner, "log", "log for labels"),
            (pipeline.joiner, "label", "join labels"),
            (pipeline.threshold, "thresholds", "threshold"),
            (pipeline.book, "decide", "alerts + reasons"),
            (pipeline.labelling.typical, "update", "alerts + reasons"),
            (pipeline.labelling.drift, "update", "drift"),
            (pipeline.evaluation, "update", "metrics"),
        ]
        for owner, name, stage in places:
            setattr(owner, name, watch.wrap(stage, getattr(owner, name)))


def run_path(events: list[list[Record]], labels: list[list[Record]], stages: bool) -> tuple[float, float, Watch]:
    """CPU and wall seconds for the whole workload on a fresh host."""
    log = EmbeddedLog()
    host = EmbeddedHost([TaskSpec.from_toml(TASK)], log)
    watch = Watch()
    replaced = list(instrument(host, watch)) if stages else []
    lane = watch.wrap("dedupe + lateness", lambda f, *a: f(*a))
    wall, start = time.perf_counter(), time.process_time()
    for event_batch, label_batch in zip(events, labels, strict=True):
        batches = log.append(topics.USER_EVENTS, event_batch)
        if label_batch:
            batches += log.append(topics.LABELS, label_batch)
        for batch in batches:
            host.process(batch)
        if stages and not hasattr(host.intake["user-events-0"], "_timed"):
            intake: Any = host.intake["user-events-0"]
            admit = intake.admit
            intake.admit = lambda b, t, admit=admit: lane(admit, b, t)
            intake._timed = True
        log.forget(log.next_seq)
    took = time.process_time() - start
    watch.seconds["glue"] = took - sum(watch.seconds.values())
    for owner, name, original in replaced:
        if isinstance(owner, dict):
            owner[name] = original
        else:
            setattr(owner, name, original)
    expected = sum(len(b) for b in events)
    if host.stats.predictions != expected:
        raise SystemExit(f"error: {host.stats.predictions} predictions for {expected} events")
    return took, time.perf_counter() - wall, watch


class PerEvent:
    """The baseline: one event at a time, exact deques, nothing survives a crash, no alerts, no drift."""

    SPANS = (DAY, 7 * DAY, 30 * DAY)

    def __init__(self) -> None:
        self._model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        self._windows: dict[str, list[deque[tuple[float, float]]]] = {}
        self._sums: dict[str, list[float]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._logged: dict[str, dict[str, float]] = {}

    def event(self, raw: bytes) -> bytes:
        """Validate, update windows, score, encode."""
        e = UserEvent.model_validate_json(raw)
        if e.event_id in self._seen:
            return b""
        self._seen[e.event_id] = None
        x = self._features(e.user_id, e.ts, e.amount or 0.0)
        score = self._model.predict_proba_one(x).get(True, 0.5)
        self._logged[e.event_id] = x
        return orjson.dumps({"event_id": e.event_id, "user_id": e.user_id, "ts": e.ts, "score": score, "features": x})

    def label(self, raw: bytes) -> None:
        """Join and learn."""
        label = Label.model_validate_json(raw)
        x = self._logged.pop(label.event_id or "", None)
        if x is not None:
            self._model.learn_one(x, bool(label.value))

    def _features(self, user: str, ts: float, amount: float) -> dict[str, float]:
        windows = self._windows.setdefault(user, [deque() for _ in self.SPANS])
        sums = self._sums.setdefault(user, [0.0] * len(self.SPANS))
        x = {"amount": amount, "since": ts - windows[0][-1][0] if windows[0] else 0.0}
        for k, span in enumerate(self.SPANS):
            windows[k].append((ts, amount))
            sums[k] += amount
            while windows[k][0][0] <= ts - span:
                sums[k] -= windows[k].popleft()[1]
            x[f"count_{k}"], x[f"mean_{k}"] = len(windows[k]), sums[k] / len(windows[k])
        hour = ts % DAY / 3600
        weekend = float(ts // DAY % 7 in (2, 3))
        return x | {"over": amount / (x["mean_2"] + 1), "hour": hour, "night": float(hour < 7), "weekend": weekend}


def run_baseline(events: list[list[Record]], labels: list[list[Record]], limit: int) -> float:
    """CPU seconds an event of the per-event loop, over at most ``limit`` events."""
    loop, done = PerEvent(), 0
    start = time.process_time()
    for event_batch, label_batch in zip(events, labels, strict=True):
        for record in event_batch:
            loop.event(record.value)
        for record in label_batch:
            loop.label(record.value)
        done += len(event_batch)
        if done >= limit:
            break
    return (time.process_time() - start) / done


def run_kernel(events: int, seed: int = 7) -> tuple[float, int]:
    """Kernel seconds for the same windows over columns already in memory, and bytes a row."""
    spec = TaskSpec.from_toml(TASK)
    engine = FeatureEngine(build_plan(spec.entities, {}), MemoryFeatureStore(), inputs=("user.*",))
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, 5_000)
    who = rng.choice(5_000, events, p=activity / activity.sum())
    ts = START + np.sort(rng.uniform(0, 60 * DAY, events))
    amount = rng.lognormal(3.2, 0.8, events)
    watch = Watch()
    kernel_module = __import__("weir.online.features.touched_rows", fromlist=["kernel"]).kernel
    original = kernel_module.run_rows
    kernel_module.run_rows = watch.wrap("kernel", original)
    try:
        for start in range(0, events, BATCH):
            stop = min(start + BATCH, events)
            batch = EventBatch(
                [""] * (stop - start),
                ts[start:stop],
                ["purchase"] * (stop - start),
                {"user_id": [f"u{u}" for u in who[start:stop].tolist()]},
                {"amount": amount[start:stop]},
            )
            engine.process(batch)
    finally:
        kernel_module.run_rows = original
    return watch.seconds["kernel"], engine.plan.layouts[0].row_bytes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warm = workload(3 * BATCH)
    run_path(*warm, stages=False)
    run_kernel(3 * BATCH)
    events, labels = workload(args.events)
    best, wall = min(run_path(events, labels, stages=False)[:2] for _ in range(args.repeats))
    staged, _, watch = run_path(events, labels, stages=True)
    baseline = run_baseline(events, labels, limit=40_000)
    kernel, row_bytes = min(run_kernel(args.events) for _ in range(args.repeats))
    n = args.events
    print(f"{'stage':<20}{'us/event':>10}{'share':>8}")
    for stage, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1]):
        print(f"{stage:<20}{seconds / n * 1e6:>10.2f}{seconds / staged:>8.1%}")
    print(f"{'timed whole':<20}{staged / n * 1e6:>10.2f}")
    print(
        f"whole path    {n / best:>12,.0f} events/s of CPU time (target {EVENTS_TARGET:,}); {n / wall:,.0f} on the wall"
    )
    print(f"per event     {1 / baseline:>12,.0f} events/s, the usual way: Weir is {baseline * n / best:.1f}x")
    print(f"window kernel {n / kernel:>12,.0f} events/s (target {KERNEL_TARGET:,}), 7 windowed and 2 plain features")
    print(f"packed row    {row_bytes:>12,} bytes for three windows (target <= {ROW_TARGET:,})")
    result = {
        "benchmark": "embedded",
        "events": n,
        "events_per_s": n / best,
        "events_per_s_wall": n / wall,
        "baseline_events_per_s": 1 / baseline,
        "ratio": baseline * n / best,
        "kernel_events_per_s": n / kernel,
        "row_bytes": row_bytes,
        "us_per_event": {stage: seconds / n * 1e6 for stage, seconds in watch.seconds.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
