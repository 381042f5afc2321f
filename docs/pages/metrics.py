"""docs/METRICS.md, made from the definitions: ``python -m docs.pages.metrics > docs/METRICS.md``."""

from __future__ import annotations

from typing import Final

from weir.streams.ops.metric_definitions import DEFINITIONS, Definition

_HEAD: Final = """# Metrics of a worker, a trainer and a service

`GET /metrics` on a worker's web address (`[worker] web_host`, `web_port`), or a trainer's (`[trainer] web_host`,
`web_port`; all of `weir_trainer_*` is its own), or on that of `weir serve`, answers in Prometheus' text format. Topics
are called by Weir's own names, whatever they are called on the cluster. The process's CPU time, memory and open files
come with it as `process_*`, the garbage collector's counts as `python_gc_*`. The end-to-end latency of a record that
waited in its topic contains that wait, as it should.

Made by `python -m docs.pages.metrics > docs/METRICS.md`; a test holds it to the code.

| metric | kind | unit | labels | meaning |
|---|---|---|---|---|
"""


def reference() -> str:
    """The page."""
    rows = "".join(map(_row, DEFINITIONS))
    buckets = "".join(f"- `{d.name}`: {', '.join(f'{b:g}' for b in d.buckets)}\n" for d in DEFINITIONS if d.buckets)
    return f"{_HEAD}{rows}\nBuckets of the histograms, upper bounds in their unit:\n\n{buckets}"


def _row(d: Definition) -> str:
    labels = ", ".join(f"`{label}`" for label in d.labels) or "-"
    return f"| `{d.name}` | {d.kind} | {d.unit if d.unit != '1' else '-'} | {labels} | {d.meaning} |\n"


if __name__ == "__main__":
    print(reference(), end="")
