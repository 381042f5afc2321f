"""The metrics of one process behind typed methods, which refuse a name that is not in `metric_definitions`.

The registry holds counters, gauges and histograms; `weir.streams.ops.exposition` hands them to prometheus_client when
asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from weir.streams.ops.instruments import Counter, Gauge, Histogram
from weir.streams.ops.metric_definitions import DEFINITIONS, Definition, Kind

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
