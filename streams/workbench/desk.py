"""A task at a desk: ``weir.Task`` over tables and events of a notebook, without a broker.

A table goes through the code that reads files (`given_data`), a run is `run_backtest`, and what it collected comes as
Arrow tables, which pandas (``.to_pandas()``, ``pandas.DataFrame.from_arrow``) and Polars (``polars.from_arrow``) take.
"""

from __future__ import annotations

import heapq
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyarrow as pa

from weir.online.codec.decode import events_from_rows
from weir.online.durations import parse_duration
from weir.online.stages.pipeline import TaskPipeline
from weir.online.stages.scoring import seen_by
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import BacktestResult, run_backtest
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.task_files import load_task
from weir.streams.workbench.given_data import Data, data_folder
from weir.streams.workbench.stream import Answer, Stream

_CHUNK_ROWS: Final = 4096
_SHOWN: Final = ("roc_auc", "average_precision", "log_loss", "brier", "ece")


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a run over data did. Tables are Arrow's; times are epoch seconds."""

    result: BacktestResult

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
        return pa.Table.from_pylist([{"over": name, **found} for name, found in self.report["metrics"].items()])

    @property
    def metrics_over_time(self) -> pa.Table:
        """The rolling metrics at the end of each interval of event time, and ``n`` rows that it brought."""
        points = self.report["metrics_over_time"]
        return pa.Table.from_pylist([{"ts": each["ts"], "n": each["n"], **each["metrics"]} for each in points])

    @property
    def report(self) -> dict[str, Any]:
        """What ``weir backtest --report`` writes."""
        return self.result.report()

    @property
    def notes(self) -> list[str]:
        """What is odd in the data, the gravest first."""
        return [str(note) for note in self.result.notes]

    def _facts(self) -> dict[str, str]:
        """What a person wants to know first."""
        r, p = self.result, self.result.pipeline
        found = p.evaluation.get()["cumulative"]
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


class Task:
    """A task file, to be run over data or event by event.

    Examples
    --------
    >>> task = Task.from_toml('''
    ... name = "large"
    ... entity = "user"
    ... inputs = ["amount"]
    ... numbers = ["amount"]
    ... entities = [{ name = "user", key = "user_id" }]
    ... model = { kind = "logistic" }
    ... source = { columns = { user_id = "who", amount = "paid" }, time = "at", label = "bad", label_delay = "1h" }
    ... ''')
    >>> rows = [{"who": "u1", "paid": float(n), "at": 1.7e9 + 600 * n, "bad": n % 2} for n in range(20)]
    >>> run = task.backtest(pa.Table.from_pylist(rows))
    >>> run.scores.column_names[:3], len(run.scores), run.result.pipeline.labelled
    (['event_id', 'entity_id', 'ts'], 20, 14)
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec

    @classmethod
    def load(cls, path: str | Path) -> Task:
        """Read a task file; raises ``UsageError`` or ``TaskError`` with all that is wrong in it."""
        return cls(load_task(Path(path)))

    @classmethod
    def from_toml(cls, text: str) -> Task:
        """Read a task from the text of a task file; raises ``TaskError`` with all that is wrong in it."""
        spec = TaskSpec.from_toml(text)
        TaskPipeline(spec, MemoryFeatureStore())  # what its expressions and inputs name is looked up there
        return cls(spec)

    def backtest(
        self,
        data: Data,
        *,
        labels: Data | None = None,
        label_delay: str | float | None = None,
        features: bool = True,
    ) -> Backtest:
        """Run over ``data`` as ``weir backtest`` does; Ctrl-C ends it early and keeps what was done.

        Parameters
        ----------
        data : files, tables, or rows as dicts: as ``[source]`` says; without one, events of the wire format.
        labels : labels of the wire format, where they are no column; ``v`` and ``task`` may be left out.
        label_delay : how late labels become known, such as ``"7d"`` or seconds; the task's own when left out.
        features : whether features are kept, 8 bytes each.

        Raises
        ------
        UsageError
            When data or a column is missing or of no use.
        TooManyRejects
            When most rows do not fit.
        """
        delay_s = None if label_delay is None else parse_duration(label_delay)
        keep = Keep(outcomes=True, alerts=True, features=features, reasons=True)
        with data_folder() as folder, _bar(self.spec.name) as progress, _until_interrupted() as stop:
            paths = folder.files(data, lines=self.spec.source is None)
            told = [] if labels is None else folder.files(labels, lines=True, common={"v": 1, "task": self.spec.name})
            return Backtest(
                run_backtest(
                    self.spec, paths, progress=progress, labels=told, label_delay_s=delay_s, keep=keep, stop=stop
                )
            )

    def stream(self) -> Stream:
        """A stream that has seen nothing, to go event by event."""
        return Stream(self.spec)

    def simulate_qa(self, data: Data) -> Iterator[dict[str, Any] | Answer]:
        r"""The events of ``data`` in order, as a stream takes them, and each label when it becomes known.

        As River's ``simulate_qa``: first the question, an event; later its answer. Rows that do not fit are left out,
        and so are labels that become known after the last event.

        >>> task = Task.from_toml('name = "t"\nentity = "u"\nentities = [{ name = "u", key = "user_id" }]\n'
        ...     'inputs = ["hour"]\nmodel = { kind = "logistic" }\n'
        ...     'source = { columns = { user_id = "who" }, time = "at", label = "bad", label_delay = "1m" }')
        >>> rows = [{"who": "a", "at": 1.7e9, "bad": 1}, {"who": "b", "at": 1.7e9 + 90, "bad": 0}]
        >>> [each if isinstance(each, Answer) else each["user_id"] for each in task.simulate_qa(rows)]
        ['a', Answer(event_id='row-0', label=True, known_at=None), 'b']
        """
        spec = self.spec.source
        if spec is None:
            raise UsageError(f"task {self.spec.name} has no [source]: its events are dicts already; give them in order")
        columns = TaskPipeline(self.spec, MemoryFeatureStore()).columns
        held: list[tuple[float, int, Answer]] = []
        numbers = count()
        with data_folder() as folder:
            source = FileSource(self.spec, columns, folder.files(data))
            for rows, labels, known in source.wire_rows(_CHUNK_ROWS):
                decoded = events_from_rows(rows, columns, model=source.model)
                scored = {int(decoded.index[row]) for row, _ in seen_by(self.spec, decoded.batch)}
                for i in decoded.index.tolist():
                    now = rows[i]["ts"]
                    while held and (held[0][0] < now or (held[0][0] == now and spec.label_known is None)):
                        yield heapq.heappop(held)[2]
                    yield rows[i]
                    label, at = labels[i], known[i]
                    if label is not None and i in scored:
                        answer = Answer(rows[i]["event_id"], label, at)
                        heapq.heappush(held, (now + spec.label_delay if at is None else at, next(numbers), answer))

    def __repr__(self) -> str:
        """Its name and what it learns with."""
        return f"Task({self.spec.name!r}, {self.spec.model.kind})"


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, in a terminal or a notebook; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    seen = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, transient=True, disable=not seen) as progress:
        row = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(row, completed=done, total=total)


@contextmanager
def _until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one breaks off. Other threads than the main one get no signals."""
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and callable(usual):
            usual(number, frame)
        asked.set()

    if main:
        signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        if main:
            signal.signal(signal.SIGINT, usual)
