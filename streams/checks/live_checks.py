"""What is odd in the data of running workers, read from their metrics: lines of ``weir doctor --live``.

The notes of ``weir backtest`` for a stream. It knows metrics, not brokers or stores; counts are since a worker's start.
"""

from __future__ import annotations

import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Final

from weir.models.errors import ModelError
from weir.models.registry.files import LocalFiles, is_exclusive
from weir.models.registry.registry import open_files
from weir.streams.checks.findings import Check
from weir.streams.config.settings import WorkerSettings

PATIENCE_S: Final = 2.0
_SAMPLE: Final = re.compile(r"^(weir_\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'\w+="((?:[^"\\]|\\.)*)"')
_MANY: Final = 50
"""Fewer say nothing."""

Samples = dict[tuple[str, ...], float]
"""By name, without ``_total``, and label values in the order of the alphabet of their names: the sum over workers."""


def check_live(settings: WorkerSettings) -> list[Check]:
    """Each worker process of this machine answers, and what they tell of the data is as it should be."""
    text, checks = "", list[Check]()
    # Without the proxy that the environment may name: it knows nothing of the workers of this machine.
    asked = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for number in range(1, settings.processes + 1):
        one = settings.of_process(number)
        url = f"http://{one.web_host}:{one.web_port}/metrics"
        try:
            with asked.open(url, timeout=PATIENCE_S) as answer:
                text += answer.read().decode(errors="replace") + "\n"  # somebody else may listen there
        except (OSError, HTTPException) as error:
            fix = "Start the worker, or give its [worker] web_host and web_port (a number, not 'auto')."
            checks.append(Check("worker", "FAIL", f"{url} does not answer: {error}", fix))
        else:
            checks.append(Check("worker", "OK", f"{url} answers"))
    return [*checks, *odd(samples_of(text))] if text else checks


def samples_of(text: str) -> Samples:
    """Weir's own samples of an exposition, or of several.

    >>> samples_of('weir_labels_total{outcome="joined",task="fraud"} 2.0')
    {('weir_labels', 'joined', 'fraud'): 2.0}
    """
    found: Samples = defaultdict(float)
    for name, labels, value in _SAMPLE.findall(text):
        found[(name, *_LABEL.findall(labels))] += float(value)
    return dict(found)


def odd(samples: Mapping[tuple[str, ...], float]) -> Iterator[Check]:
    """What the counts say, good or bad."""

    def of(name: str, *labels: str) -> float:
        return sum(n for key, n in samples.items() if key[0] == name and set(labels) <= set(key[1:]))

    def share(name: str, some: float, all_: float, most: float, found: str, fix: str) -> Check:
        # Of few records a single one is more than a hundredth.
        wrong = all_ >= _MANY and some > most * all_
        return Check(name, "WARN" if wrong else "OK", f"{some:,.0f} of {all_:,.0f} {found}", fix if wrong else "")

    records, events = of("weir_records", "user-events") + of("weir_records", "device-events"), of("weir_events")
    if not events:
        yield Check("events", "WARN", "none was scored since the start", "Look at the topics: weir topics lag.")
    for name, metric, what, fix in (
        ("dead letters", "weir_dead_letters", "records were refused", "weir dlq list names their reasons."),
        ("repeats", "weir_duplicates", "events repeat an event_id", "Give each event an id of its own."),
        ("misplaced", "weir_misplaced", "are in another partition", "Producers: key = entity, murmur2 partitioner."),
    ):
        yield share(name, of(metric), records, 0.01, what, fix)
    for task in sorted({key[-1] for key in samples if key[0] in ("weir_waiting_predictions", "weir_labels")}):
        passed = of("weir_passed_over", task)
        fix = "Correct `types` in the task, or the events' type or key."
        yield share(f"{task}: events", passed, events, 0.999, "are of other types or without a key", fix)
        for column in sorted({key[1] for key in samples if key[0] == "weir_inputs" and key[-1] == task}):
            known, missing = of("weir_inputs", column, "known", task), of("weir_inputs", column, "missing", task)
            fix = f"Look at {column} in the events: it has to be of the right kind and name."
            if missing > 0.5 * (known + missing):
                yield share(f"{task}: {column}", missing, known + missing, 0.5, "events looked at have no value", fix)
        lost = of("weir_labels", "unmatched", task) + of("weir_labels", "lost", task)
        waiting = of("weir_waiting_labels", task)
        fix = "Their event_id has to be that of an event, within keep_s of [labels.join]."
        found = f"labels met no prediction; {waiting:,.0f} of them wait for one"
        yield share(f"{task}: labels", lost + waiting, of("weir_labels", task) + waiting, 0.01, found, fix)
    if unknown := of("weir_unknown_task"):
        yield Check("labels", "WARN", f"{unknown:,.0f} are of tasks that no worker here runs", "Correct their `task`.")


def check_registry(url: str) -> Check:
    """Try the registry at ``url``; a directory that is not there yet is left alone, as the first version makes it."""
    name = "registry"
    try:
        files = open_files(url)
        if isinstance(files, LocalFiles) and not Path(files.root).exists():
            return Check(name, "OK", f"{files.url}: not there yet; the first version makes it")
        if is_exclusive(files):
            return Check(name, "OK", f"{files.url}: of two writers one wins")
    except ModelError as error:
        # Not a failure: whoever only serves reads the registry, and need not have the right to write.
        fix = "Mend it where a trainer runs or 'weir models' promotes; workers only read the registry."
        return Check(name, "WARN", f"cannot be written: {error}", fix)
    fix = "Set [models] registry to a directory, or to a store that honours If-None-Match."
    return Check(name, "FAIL", f"{files.url}: overwrites what another writer has just made", fix)
