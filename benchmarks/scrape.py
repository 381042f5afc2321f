"""Reads a worker's /metrics while a benchmark runs: the last answer counts, as the worker ends with the run."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


class Scraper:
    """Asks every ``every_s`` from a thread of its own; a context manager."""

    def __init__(self, url: str, every_s: float = 0.5) -> None:
        self._url, self._every_s = url, every_s
        self.last = ""
        """The newest answer; empty when there never was one."""
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(self._every_s):
            try:
                with urllib.request.urlopen(self._url, timeout=2) as answer:
                    self.last = answer.read().decode()
            except (urllib.error.URLError, OSError):
                continue  # not up yet, or gone already


def samples(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    r"""Values of one sample name, such as ``weir_stage_seconds_sum``, by their labels in order of name.

    >>> text = '# TYPE weir_stage_seconds histogram\nweir_stage_seconds_sum{lane="score",stage="decode"} 0.5\n'
    >>> samples(text, "weir_stage_seconds_sum")
    {(('lane', 'score'), ('stage', 'decode')): 0.5}
    """
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def stage_costs(text: str) -> dict[str, tuple[float, float]]:
    """Seconds and batches of each stage, by ``lane stage``, the dearest first."""
    counts = samples(text, "weir_stage_seconds_count")
    found = {
        " ".join(value for _, value in labels): (seconds, counts.get(labels, 0.0))
        for labels, seconds in samples(text, "weir_stage_seconds_sum").items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))
