"""The metrics of one process behind typed methods, which refuse a name that is not in `metric_definitions`.

The registry holds counters, gauges and histograms; `weir.streams.ops.exposition` hands them to prometheus_client when
asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import numpy as np

from weir.online.batch import FloatVector
from weir.streams.ops.metric_definitions import DEFINITIONS, Definition, Kind

# Counters, gauges and histograms that cost well under a microsecond to update.
#
# prometheus_client's own take 1.5 to 2.7 us each, too much for the twenty updates of a batch, and a histogram of theirs
# cannot take in a batch at once.


class Counter:
    """Counts up.

    >>> c = Counter(); c.inc(); c.inc(4); c.value
    5.0
    """

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._lock = Lock()

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``, which is not negative."""
        if amount < 0:
            raise ValueError(f"a counter cannot go down by {-amount}; use a gauge")
        with self._lock:
            self.value += amount


class Gauge:
    """A value that is set, or asked for when somebody looks.

    >>> g = Gauge(); g.set(3); g.value
    3.0
    >>> g.follow(lambda: 7); g.value
    7.0
    """

    __slots__ = ("_ask", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._ask: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """The value is ``value`` from now on."""
        self._value = float(value)

    def follow(self, ask: Callable[[], float]) -> None:
        """The value is what ``ask`` returns whenever it is read."""
        self._ask = ask

    @property
    def value(self) -> float:
        """The value now."""
        return self._value if self._ask is None else float(self._ask())


class Histogram:
    """Counts values by bucket.

    Parameters
    ----------
    bounds : upper bounds, ascending; a value equal to a bound belongs below it. Infinity is understood.

    >>> h = Histogram((1.0, 2.0)); h.observe(1.0); h.observe(5.0); h.counts, h.sum
    ([1, 0, 1], 6.0)
    """

    __slots__ = ("_bounds", "_descending", "_lock", "bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._bounds = np.array(bounds)
        self._descending = self._bounds[::-1].copy()
        self._lock = Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        # Left: a value equal to a bound is in that bound's bucket (`le` in Prometheus).
        at = bisect_left(self.bounds, value)
        with self._lock:
            self.counts[at] += 1
            self.sum += value

    def observe_many(self, values: FloatVector) -> None:
        """Count ``values (n,)``."""
        self._add(np.bincount(np.searchsorted(self._bounds, values), minlength=len(self.counts)).tolist(), values.sum())

    def observe_ages(self, since: FloatVector, now: float) -> None:
        """Count ``now - since (n,)``, none below 0; quick where ``since`` does not step back, as in a partition."""
        if not len(since):
            return
        # A producer's clock may be ahead of ours, and timestamps within a batch may step back.
        if since[-1] > now or not (since[1:] >= since[:-1]).all():
            self.observe_many(np.maximum(now - since, 0.0))
            return
        # Ages fall along the batch: the rows older than each bound end where `since` reaches now - bound.
        older = np.searchsorted(since, now - self._descending)
        ends = [len(since), *older[::-1].tolist(), 0]
        self._add([ends[i] - ends[i + 1] for i in range(len(ends) - 1)], len(since) * now - float(since.sum()))

    def _add(self, counts: list[int], total: float) -> None:
        with self._lock:
            self.counts = [held + new for held, new in zip(self.counts, counts, strict=True)]
            self.sum += float(total)


Instrument = Counter | Gauge | Histogram
_BY_NAME: Final = {d.name: d for d in DEFINITIONS}


class Registry:
    """Holds the instruments of one worker; every one is made on first use and kept.

    A child bound once (``batches = registry.counter("weir_batches_total", topic="labels")``) is cheaper to update than
    by name each time.

    >>> registry = Registry()
    >>> registry.inc("weir_batches_total", topic="labels")
    >>> registry.counter("weir_batches_total", topic="labels").value
    1.0
    >>> registry.set("weir_ready", 1, task="fraud")
    Traceback (most recent call last):
    ValueError: weir_ready has the labels (), got ('task',)
    >>> registry.inc("weir_ready")
    Traceback (most recent call last):
    ValueError: 'weir_ready' is no counter of streams/ops/metric_definitions.py
    """

    def __init__(self) -> None:
        self._children: dict[str, dict[tuple[str, ...], Instrument]] = {d.name: {} for d in DEFINITIONS}

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of these labels."""
        found: Counter = self._child("counter", name, labels, Counter)
        return found

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge of these labels."""
        found: Gauge = self._child("gauge", name, labels, Gauge)
        return found

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram of these labels."""
        found: Histogram = self._child("histogram", name, labels, lambda: Histogram(_BY_NAME[name].buckets))
        return found

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        self.counter(name, **labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self.gauge(name, **labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count a value in a histogram."""
        self.histogram(name, **labels).observe(value)

    def forget(self, name: str, **labels: str) -> None:
        """Show the child of these labels no more: the lag of a partition that another worker owns now."""
        self._children[name].pop(_key(_BY_NAME[name], labels), None)

    def children(self, name: str) -> dict[tuple[str, ...], Instrument]:
        """The instruments of a metric by their label values, as they are now."""
        return dict(self._children[name])

    def _child(self, kind: Kind, name: str, labels: dict[str, str], make: Callable[[], Instrument]) -> Any:
        definition = _BY_NAME.get(name)
        if definition is None or definition.kind != kind:
            raise ValueError(f"{name!r} is no {kind} of streams/ops/metric_definitions.py")
        children = self._children[name]
        key = _key(definition, labels)
        found = children.get(key)
        # setdefault: of two threads that meet here first, both get the one that is kept.
        return found if found is not None else children.setdefault(key, make())


def _key(definition: Definition, labels: dict[str, str]) -> tuple[str, ...]:
    if labels.keys() != set(definition.labels):
        raise ValueError(f"{definition.name} has the labels {definition.labels}, got {tuple(labels)}")
    return tuple(labels[name] for name in definition.labels)
