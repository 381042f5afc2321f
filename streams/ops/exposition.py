"""A registry as text for Prometheus, with the process's CPU time and memory beside it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from weir.streams.ops.instruments import Histogram
from weir.streams.ops.metric_definitions import DEFINITIONS, Definition
from weir.streams.ops.metric_registry import Instrument, Registry

__all__ = ["CONTENT_TYPE", "Exposition"]


class Exposition(Collector):
    """Renders a registry.

    >>> registry = Registry()
    >>> registry.inc("weir_rebalances_total")
    >>> b"weir_rebalances_total 1.0" in Exposition(registry).render()
    True
    """

    def __init__(self, registry: Registry) -> None:
        self._registry, self._prometheus = registry, CollectorRegistry()
        self._prometheus.register(self)
        # Into a registry of our own: the global one would hold what any library registers on import.
        ProcessCollector(registry=self._prometheus)
        GCCollector(registry=self._prometheus)

    def render(self) -> bytes:
        """Everything as it is now, in Prometheus' text format 0.0.4."""
        return generate_latest(self._prometheus)

    def collect(self) -> Iterator[Metric]:
        """Every metric that has been measured."""
        for definition in DEFINITIONS:
            children = self._registry.children(definition.name)
            if children:
                yield _family(definition, children)


def _family(definition: Definition, children: dict[tuple[str, ...], Instrument]) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Any = kinds[definition.kind](definition.name, definition.meaning, labels=definition.labels)
    # Sorted: children are in the order of their first use, and a scrape should not depend on that.
    for labels, instrument in sorted(children.items()):
        if isinstance(instrument, Histogram):
            # Prometheus counts cumulatively, and calls the last bucket +Inf.
            bounds = map(floatToGoString, (*instrument.bounds, float("inf")))
            family.add_metric(labels, list(zip(bounds, accumulate(instrument.counts), strict=True)), instrument.sum)
        else:
            family.add_metric(labels, instrument.value)
    made: Metric = family
    return made
