"""Rows of every operation, window and missing state, and an oracle that recomputes a reason from the raw events.

The oracle reads the sentence alone: what it counts, of whom, in which window. It knows no feature and no writer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np

from weir.online.batch import EventBatch, FloatMatrix, UpdateBatch
from weir.online.features import spec
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

SPANS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "weeks": 604_800.0, "second": 1.0, "minute": 60.0,
         "hour": 3600.0, "day": 86_400.0, "week": 604_800.0}  # fmt: skip
PANES, HALF_LIFE, PRIOR, PRIOR_SHARE = 6, 2 * 86_400.0, 8.0, 0.25
EVENT_OPS = [op for name in ("WindowOp", "GapOp", "PlainOp") for op in get_args(getattr(spec, name, ()))]
LABEL_OPS = [op for name in ("LabelWindowOp", "LabelPlainOp", "LabelRunOp") for op in get_args(getattr(spec, name, ()))]
WINDOWS = ["1h", "1d", "7d"]


def _aggregate(name: str, ops: list[str], **more: Any) -> dict[str, Any]:
    return {"name": name, "ops": ops, "windows": WINDOWS, "panes": PANES, "half_life": "2d"} | more


def task_of(*, indicators: bool, **changes: Any) -> TaskSpec:
    user = [
        _aggregate("paid", EVENT_OPS, value="amount", ratios=["1d/7d"]),
        _aggregate("small", ["count", "since_last", "since_first"], where="amount < 50", windows=["10s", "1h", "ever"]),
        _aggregate("visits", ["count", "since_last"], include_current=False),
    ]
    shop = [
        _aggregate("risk", LABEL_OPS, value="amount"),
        _aggregate(
            "quiet", [op for op in LABEL_OPS if op != "run_min"], where="amount < 50", windows=["1h", "7d", "ever"]
        ),
        _aggregate("guess", ["share"], prior=PRIOR, prior_share=PRIOR_SHARE),
    ]
    document = {
        "name": "t",
        "entity": "user",
        "model": {"kind": "logistic"},
        "inputs": ["amount", "hour", "night", "silence", "silent_days", "high", "user.*", "shop.*"],
        "indicators": indicators,
        "values": {
            "silence": "or_else(user.visits_since_last, 0)",
            "silent_days": "user.visits_since_last / 86400",
            "high": "amount > 50",
        },
        "entities": [
            {"name": "user", "key": "user_id", "ttl": "3000d", "aggregates": user,
             "anomalies": [{"name": "odd", "value": "amount"}]},
            {"name": "shop", "key": "merchant_id", "ttl": "3000d", "labels": shop,
             "aggregates": [_aggregate("seen", ["count", "since_first"])]},
        ],
    }  # fmt: skip
    return TaskSpec.model_validate(document | changes)


@dataclass
class Event:
    user: str
    shop: str | None
    ts: float
    amount: float


@dataclass
class Known:
    """A label, as it became known."""

    event: Event
    y: bool
    at: float


@dataclass
class Told:
    """One row, and all that had come before it."""

    event: Event
    before: list[Event]
    labels: list[Known]


@dataclass
class Stream:
    """Events with everything that was known at each, and what the engine made of them."""

    names: tuple[str, ...]
    rows: list[Told] = field(default_factory=list)
    x: FloatMatrix = field(default_factory=lambda: np.empty((0, 0)))
    y: list[bool] = field(default_factory=list)


def stream_of(task: TaskSpec, n: int, seed: int) -> Stream:
    """Events of two users at two shops or none, some without an amount; labels hours to days later, in any order."""
    rng, engine = np.random.default_rng(seed), engine_of(task, MemoryFeatureStore())
    now, waiting, events, known = 1_700_000_000.0, list[tuple[Known, FloatMatrix]](), list[Event](), list[Known]()
    made = Stream(engine.features)
    x = []
    for k in range(n):
        now += float(
            rng.choice([0, 1, 30, 600, 3599, 20_000, 90_000, 1_000_000], p=[0.1, 0.1, 0.2, 0.2, 0.1, 0.2, 0.08, 0.02])
        )
        e = Event(str(rng.choice(["ann", "bob"])), [None, "bar", "pub"][int(rng.integers(3))], now,
                  float(rng.choice([math.nan, 0.0, 2.5, 20.0, 49.0, 120.0, 950.0])))  # fmt: skip
        for label, masks in sorted((w for w in waiting if w[0].at <= now), key=lambda w: w[0].at):
            values = np.hstack([[[float(label.y), 1.0]], masks])
            engine.apply(
                "shop.labels", UpdateBatch([f"{label.at}"], [str(label.event.shop)], np.array([label.at]), values)
            )
            known.append(label)
        waiting = [w for w in waiting if w[0].at > now]
        keys: dict[str, list[str | None]] = {"user_id": [e.user], "merchant_id": [e.shop]}
        amount = {"amount": np.array([e.amount])}
        block = engine.process(EventBatch([f"e{k}"], np.array([now]), ["purchase"], keys, amount))
        y = bool(rng.random() < 0.5)
        if e.shop is not None:
            waiting.append((Known(e, y, now + float(rng.choice([60.0, 7000.0, 100_000.0]))), block.label_masks))
        made.rows.append(Told(e, [*events], [*known]))
        made.y.append(y)
        events.append(e)
        x.append(block.x[0])
    made.x = np.array(x)
    return made


_NUMBER = r"(?P<n>-?[\d,]+(?:\.\d+)?(?:e[+-]?\d+)?)"
_SPAN = r"(?:(?P<w>\d+)(?: |-)(?P<u>\w+))"
_KIND, _AGE = r"(?P<kind>quiet )?", _NUMBER + r" (?P<unit>s|min|h|d)"
_EVENTS = r"(?P<what>events?(?: with amount)?|small events?|visits?)"
_SENTENCES: dict[str, str] = {
    "count": rf"{_NUMBER} {_EVENTS}(?: of this (?P<entity>\w+))?(?: in {_SPAN}| ever)",
    "of values": rf"this user's (?:{_SPAN} |all-time )?"
    rf"(?P<op>total|mean|spread of|smallest|largest|last|running mean) paid is {_NUMBER}",
    "distinct": rf"about {_NUMBER} different paids? of this user(?: in {_SPAN}| ever)",
    "ratio": rf"paid(?: (?P<own>[\d,.]+))? is (?P<under>under )?{_NUMBER}x this user's "
    rf"(?:{_SPAN} |(?P<op>running |all-time ))mean",
    "age": rf"{_AGE} since this (?P<entity>\w+)'s (?P<op>last|first) {_EVENTS}",
    "labels": rf"{_NUMBER} {_KIND}(?P<what>labels?|frauds?) became known at this shop(?: in {_SPAN}| ever)",
    "share": rf"(?P<guess>an estimated )?(?P<over>over )?{_NUMBER} % of {_KIND}labels that became known at this shop"
    rf"(?: in {_SPAN}| ever) are frauds",
    "last label": rf"the last {_KIND}label known at this shop says (?P<no>no )?fraud",
    "lately": rf"(?P<over>over )?{_NUMBER} % of {_KIND}labels at this shop are frauds, newer ones counting more",
    "label age": rf"{_AGE} since a {_KIND}label of this shop became known",
    "fraud age": rf"{_AGE} since this shop's (?P<op>last|first) {_KIND}fraud became known",
    "run": rf"{_NUMBER} known {_KIND}frauds? in a row at this shop",
    "run least": rf"the smallest amount of known {_KIND}frauds in a row at this shop is {_NUMBER}",
    "run age": rf"known {_KIND}frauds in a row at this shop for {_AGE}",
    "negative age": rf"{_AGE} since this shop's last event known to be no fraud",
    "no value": r"no earlier (?P<what>paid|event with amount|small event|event|visit) known of this (?P<entity>\w+)"
    rf"(?: in {_SPAN}| yet)",
    "gap": rf"this user's mean time from one {_EVENTS} to the next(?: in {_SPAN}| ever)? is {_AGE}",
    "no gap": rf"no time from one {_EVENTS} of this user to the next known(?: in {_SPAN}| yet)",
    "no label": rf"no {_KIND}label (?:became )?known at this shop(?: in {_SPAN}| yet)",
    "no fraud": rf"no {_KIND}fraud known at this shop yet",
    "no run": rf"no run of known {_KIND}frauds at this shop",
    "no negative": r"no event of this shop known to be no fraud yet",
    "no ratio": rf"paid cannot be compared with this user's (?:{_SPAN} |(?P<op>running |all-time ))mean",
    "no shop": r"the event names no shop",
    "no amount": r"amount is missing|no amount of this user to judge",
    "nothing to go by": r"no earlier (?P<what>amount) of this user to go by",
    "amount": rf"amount is {_NUMBER}",
    "high": r"(?P<no>not )?high",
    "silence": rf"silen(?:ce|t days) is {_AGE}",
    "no silence": r"silent days is missing",
    "never missing": r"(?:high|silence) is missing",
    "hour": r"at (?P<h>\d\d):(?P<m>\d\d)",
    "night": r"(?P<no>not )?at night",
}


@dataclass
class _Claim:
    """A sentence taken apart, beside the row that it is told of."""

    kind: str
    said: dict[str, str | None]
    told: Told

    @property
    def span(self) -> float:
        return float(self.said["w"] or 0) * SPANS[self.said["u"] or "s"] if self.said.get("w") else math.inf

    def inside(self, ts: float) -> bool:
        """Whether a time is in the window: its far edge is exact to a pane."""
        if self.span == math.inf:
            return True
        pane = self.span / PANES
        return math.floor(ts / pane) > math.floor(self.told.event.ts / pane) - PANES

    def events(self, *, now: bool) -> list[Event]:
        """Those that the sentence counts, of the entity it names; with the present one or before it."""
        me, what = self.told.event, self.said.get("what") or "amount"
        own = [e for e in self.told.before if (e.shop if self.said.get("entity") == "shop" else e.user) ==
               (me.shop if self.said.get("entity") == "shop" else me.user)]  # fmt: skip
        own += [me] if now else []
        fits = (
            (lambda e: e.amount < 50)
            if "small" in what
            else (lambda e: what.rstrip("s") in ("event", "visit") or not math.isnan(e.amount))
        )
        return [e for e in own if fits(e) and self.inside(e.ts)]

    def labels(self) -> list[Known]:
        mine = [k for k in self.told.labels if k.event.shop == self.told.event.shop]
        return [k for k in mine if (not self.said.get("kind") or k.event.amount < 50) and self.inside(k.at)]

    def run(self) -> tuple[list[Event], float]:
        """The positives since the last negative, by the times of their events, and when that negative was."""
        negative, run = -math.inf, list[Event]()
        for k in self.told.labels:
            if k.event.shop != self.told.event.shop:
                continue
            if k.y:
                counts = (not self.said.get("kind") or k.event.amount < 50) and k.event.ts > negative
                run += [k.event] if counts else []
            else:
                negative = max(negative, k.event.ts)
                run = [] if run and k.event.ts >= min(e.ts for e in run) else run
        return run, negative

    def says(self, value: float, unit: float = 1.0) -> bool:
        """Whether the number of the sentence is ``value``, as far as its digits go."""
        text = (self.said["n"] or "").replace(",", "")
        unit *= SPANS[self.said["unit"] or "s"] if self.said.get("unit") else 1.0
        if self.said.get("under"):
            return 0.0 < value < float(text)
        if self.said.get("over"):
            return 99.0 < value / unit < 100.0
        digits = len(text.partition(".")[2]) if "e" not in text else 8
        rough = 0.5 if abs(float(text)) >= 10 else 0.05 if self.said.get("unit") and float(text) >= 1 else 0.0
        return abs(value / unit - float(text)) <= max(0.5 * 10.0**-digits, rough if not digits else 0.0) * 1.001 + 1e-4


def _faded(pairs: list[tuple[float, float]]) -> float:
    """The mean of ``(time, value)``, the newer ones counting more."""
    newest = max(t for t, _ in pairs)
    weights = [0.5 ** ((newest - t) / HALF_LIFE) for t, _ in pairs]
    return math.fsum(w * v for w, (_, v) in zip(weights, pairs, strict=True)) / math.fsum(weights)


def _true(c: _Claim) -> bool:
    """Whether the raw events bear the claim out."""
    me = c.told.event
    match c.kind:
        case "count":
            return c.says(len(c.events(now=True))) or c.says(len(c.events(now=False)))
        case "of values":
            earlier = c.said["op"] in ("last", "running mean")
            past = c.events(now=not earlier)
            of: dict[str, Callable[[list[float]], Any]] = {
                "total": math.fsum, "mean": np.mean, "spread of": np.std, "smallest": min, "largest": max,
                "last": lambda v: v[-1], "running mean": lambda _: _faded([(e.ts, e.amount) for e in past]),
            }  # fmt: skip
            return c.says(float(of[c.said["op"] or ""]([e.amount for e in past])))
        case "distinct":
            return c.says(len({e.amount for e in c.events(now=True)}))
        case "ratio":
            running, rest = c.said["op"] == "running ", c.events(now=False)
            mean = _faded([(e.ts, e.amount) for e in rest]) if running else float(np.mean([e.amount for e in rest]))
            own = c.said["own"]
            return c.says(me.amount / mean) and (own is None or float(own.replace(",", "")) == me.amount)
        case "no ratio":
            return math.isnan(me.amount) or not any(e.amount for e in c.events(now=False))
        case "age":
            times = [e.ts for e in c.events(now=False)]
            return c.says(me.ts - (times[-1] if c.said["op"] == "last" else times[0]))
        case "gap" | "no gap":
            times = [e.ts for e in replace(c, said={**c.said, "w": None}).events(now=c.span < math.inf)]
            gaps = [b - a for a, b in pairwise(times) if c.inside(b)]
            return not gaps if c.kind == "no gap" else c.says(float(np.mean(gaps)))
        case "no value" | "nothing to go by":
            return not c.events(now=False)
        case "labels":
            return c.says(sum(k.y or "label" in (c.said["what"] or "") for k in c.labels()))
        case "share" if c.said["guess"]:
            return c.says(100.0 * (sum(k.y for k in c.labels()) + PRIOR * PRIOR_SHARE) / (len(c.labels()) + PRIOR))
        case "share":
            return c.says(100.0 * sum(k.y for k in c.labels()) / len(c.labels()))
        case "last label":
            return c.labels()[-1].y == (c.said["no"] is None)
        case "lately":
            return c.says(100.0 * _faded([(k.at, float(k.y)) for k in c.labels()]))
        case "label age":
            return c.says(me.ts - max(k.at for k in c.labels()))
        case "fraud age":
            times = sorted(k.at for k in c.labels() if k.y)
            return c.says(me.ts - times[-1 if c.said["op"] == "last" else 0])
        case "no label":
            return not c.labels()
        case "no fraud":
            return not any(k.y for k in c.labels())
        case "run":
            return c.says(len(c.run()[0]))
        case "run least":
            return c.says(min(e.amount for e in c.run()[0] if not math.isnan(e.amount)))
        case "run age":
            return c.says(me.ts - min(e.ts for e in c.run()[0]))
        case "no run":
            return all(math.isnan(e.amount) for e in c.run()[0])
        case "negative age":
            return c.says(me.ts - c.run()[1])
        case "no negative":
            return c.run()[1] == -math.inf
        case "no shop":
            return me.shop is None
        case "no amount":
            return math.isnan(me.amount)
        case "amount":
            return c.says(me.amount)
        case "high":
            return (me.amount > 50) == (c.said["no"] is None)
        case "silence" | "no silence":
            times = [e.ts for e in c.told.before if e.user == me.user]
            return not times if c.kind == "no silence" else c.says(me.ts - times[-1] if times else 0.0)
        case "never missing":
            return False
        case "hour":
            return (int(c.said["h"] or 0), int(c.said["m"] or 0)) == (
                int(me.ts % 86_400 // 3600),
                int(me.ts % 3600 // 60),
            )
        case "night":
            return (me.ts % 86_400 < 7 * 3600) == (c.said["no"] is None)
    raise AssertionError(c.kind)


def is_true(text: str, told: Told) -> bool | None:
    """Whether a sentence is true of a row; ``None`` for one that the oracle does not know."""
    plain = re.sub(r" \(usually [^)]*\)", "", text)
    if plain.endswith(" is known") or plain.startswith("some "):  # which is that the opposite is false
        said = plain.replace(" is known", " is missing") if plain.endswith(" is known") else f"no {plain[5:]}"
        return next((not true for end in ("", " yet") if (true := is_true(said + end, told)) is not None), None)
    for kind, pattern in _SENTENCES.items():
        if found := re.fullmatch(pattern, plain):
            return _true(_Claim(kind, found.groupdict(), told))
    return None
