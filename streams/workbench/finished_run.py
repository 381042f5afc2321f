"""What a run over data did, for a notebook: its tables as Arrow's, its facts as a line or a page.

It knows results, not how they are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from weir.streams.backtest.run_result import BacktestResult
from weir.streams.errors import UsageError
from weir.streams.workbench.outcome_report import outcome_report
from weir.streams.workbench.report.page import RunWatcher, write_report

_SHOWN: Final = ("roc_auc", "average_precision", "log_loss", "brier", "ece")


class Backtest:
    """What a run over data did. Tables are Arrow's; times are epoch seconds."""

    def __init__(self, result: BacktestResult, watched: RunWatcher) -> None:
        self.result, self._watched = result, watched

    @property
    def scores(self) -> pa.Table:
        """Every score in the order of scoring: event, entity, time, score, line, alert and its reasons, label."""
        assert self.result.outcomes is not None
        return self.result.outcomes.table()

    @property
    def alerts(self) -> pa.Table:
        """Every record of an alert as it would have been sent, and what its labels said in the end."""
        assert self.result.alert_log is not None
        return self.result.alert_log.table()

    @property
    def features(self) -> pa.Table:
        """What each score was made from, in the order of scoring; a value that is missing is -0.0."""
        if self.result.features is None:
            raise UsageError("the run kept no features: call backtest(..., features=True)")
        return self.result.features

    @property
    def metrics(self) -> pa.Table:
        """The metrics at the end, one row each for ``cumulative``, ``rolling`` and ``fading``."""
        return _table([{"over": name, **found} for name, found in self.report["metrics"].items()])

    @property
    def metrics_over_time(self) -> pa.Table:
        """The rolling metrics at the end of each interval of event time, and ``n`` rows that it brought."""
        points = self.report["metrics_over_time"]
        return _table([{"ts": each["ts"], "n": each["n"], **each["metrics"]} for each in points])

    @cached_property
    def report(self) -> dict[str, Any]:
        """What ``weir backtest --report`` writes: metrics, what the line did, gain, reliability, notes."""
        assert self.result.judged is not None
        return self.result.report() | outcome_report(self.result.task, self.result.judged, None)

    def to_html(self, page: str | Path, plots: str | Path | None = None) -> None:
        """Write the page of the run, as ``weir backtest --html`` does, and its charts as SVG into a folder.

        The task stands in it as JSON, with the keys that were set. Needs Jinja2, which is in ``weir[serve]``.
        """
        # There is no file at a desk: the task may come from a string, or from code.
        source = self.result.task.model_dump_json(indent=2, exclude_unset=True)
        write_report(self.result, self._watched, source, Path(page), None if plots is None else Path(plots))

    @property
    def notes(self) -> list[str]:
        """What is odd in the data, the gravest first."""
        return [str(note) for note in self.result.notes]

    def _facts(self) -> dict[str, str]:
        """What a person wants to know first."""
        r, p = self.result, self.result.pipeline
        found = self.report["judged"]
        stopped = " (stopped)" if r.stopped else ""
        facts = {"rows": f"{r.rows:,}{stopped}", "scored": f"{p.scored:,}", "labelled": f"{p.labelled:,}"}
        facts |= {"rejected": f"{r.rejected:,}", "alerts": f"{r.alerts['open']:,}"}
        return facts | {name: f"{found[name]:.4g}" for name in _SHOWN if name in found}

    def __repr__(self) -> str:
        """One line, and the gravest notes."""
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return "\n".join([f"Backtest of {self.result.task.name!r}: {facts}", *(f"  {note}" for note in self.notes[:3])])

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._facts().items())
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        odd = f"<details><summary>{len(self.notes)} notes</summary><ul>{notes}</ul></details>" if notes else ""
        return f"<table><caption>{escape(self.result.task.name)}</caption>{cells}</table>{odd}"


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table, null where one lacks a column."""
    # Arrow takes the columns of the first row alone: at the first interval there may be no metric of two classes yet.
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([dict.fromkeys(names) | {**row} for row in rows])
