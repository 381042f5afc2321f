"""A task at a desk: ``weir.Task`` over tables and events of a notebook, without a broker.

A table goes through the code that reads files (`given_data`), a run is `run_backtest`, and what it collected comes as
Arrow tables, which pandas (``.to_pandas()``, ``pandas.DataFrame.from_arrow``) and Polars (``polars.from_arrow``) take.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from html import escape
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from weir.online.codec.decode import events_from_rows
from weir.online.durations import parse_duration
from weir.online.stages.pipeline import TaskPipeline
from weir.online.stages.scoring import seen_by
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import FullTrainer, run_backtest
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.ops.stop_request import StopRequest, interruptible
from weir.streams.task_files import load_task
from weir.streams.workbench.given_data import Data, data_folder
from weir.streams.workbench.outcome_report import outcome_report
from weir.streams.workbench.report.page import RunWatcher, write_report
from weir.streams.workbench.stream import Answer, Stream

_CHUNK_ROWS: Final = 4096


class Task:
    """A task file, to be run over data or event by event.

    Examples
    --------
    >>> import pyarrow as pa
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
        full: bool = True,
        models: str | Path | None = None,
    ) -> Backtest:
        """Run over ``data`` as ``weir backtest`` does; Ctrl-C ends it early and keeps what was done.

        Parameters
        ----------
        data : files, tables, or rows as dicts: as ``[source]`` says; without one, events of the wire format.
        labels : labels of the wire format, where they are no column; ``v`` and ``task`` may be left out.
        label_delay : how late labels become known, such as ``"7d"`` or seconds; the task's own when left out.
        features : whether features are kept, 8 bytes each.
        full : whether the full model of a task with ``[full]`` is trained on the way.
        models : an empty directory for the full models, which are gone with the run without one.

        Raises
        ------
        UsageError
            When data or a column is missing or of no use.
        TooManyRejects
            When most rows do not fit.
        """
        if labels is not None and label_delay is None and self.spec.source is None:
            raise UsageError('labels become known late: say how late, as label_delay="7d" (0 for at once)')
        try:
            delay_s = None if label_delay is None else parse_duration(label_delay)
        except ValueError as exc:
            raise UsageError(f"label_delay: {exc}") from exc
        keep = Keep(outcomes=True, alerts=True, features=features, reasons=True, late_labels=True)
        watched = RunWatcher()
        asked = StopRequest()

        def started(_: Sequence[str]) -> None:
            stack.enter_context(interruptible(asked))  # until then nothing is there to be kept

        with ExitStack() as stack:
            # In this order: the bar ends before the folder goes, and the trainer, entered last, before both.
            folder, progress = stack.enter_context(data_folder()), stack.enter_context(_bar(self.spec.name))
            paths = folder.files(data, lines=self.spec.source is None)
            told = [] if labels is None else folder.files(labels, lines=True, common={"v": 1, "task": self.spec.name})
            trained = full and self.spec.full is not None
            result = run_backtest(
                self.spec, paths, progress=progress, labels=told, label_delay_s=delay_s, keep=keep, stop=asked.is_set,
                started=started, watcher=watched,
                full=stack.enter_context(_training(self.spec, models, asked)) if trained else None,
            )  # fmt: skip
        return Backtest(result, watched)

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
                # A label of an event that the task does not score would be refused by the stream.
                scored = {int(decoded.index[row]) for row, _ in seen_by(self.spec, decoded.batch)}
                for i in decoded.index.tolist():
                    now = rows[i]["ts"]
                    # As a backtest has it: where each label has a time of its own, an event of that very time does not
                    # see it.
                    while held and (held[0][0] < now or (held[0][0] == now and spec.label_known is None)):
                        yield heapq.heappop(held)[2]
                    yield rows[i]
                    label, at = labels[i], known[i]
                    if label is not None and i in scored:
                        answer = Answer(rows[i]["event_id"], label, at)
                        # The number tells answers of the same time apart, in their order, before answers would be
                        # compared.
                        heapq.heappush(held, (now + spec.label_delay if at is None else at, next(numbers), answer))

    def __repr__(self) -> str:
        """Its name and what it learns with."""
        return f"Task({self.spec.name!r}, {self.spec.model.kind})"


def _training(spec: TaskSpec, models: str | Path | None, asked: StopRequest) -> AbstractContextManager[FullTrainer]:
    """What trains the full model of a run."""
    try:
        for name in ("onnxruntime", "lightgbm"):  # said before the run, not at its first training
            import_module(name)
        from weir.streams.workbench.full_training import training_of_run
    except ImportError as exc:
        raise UsageError(f"[full] needs {exc.name}: pip install 'weir[cpu]', or give full=False") from exc
    return training_of_run(spec, None if models is None else Path(models), asked.is_set)


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


_SHOWN: Final = ("roc_auc", "average_precision", "log_loss", "brier", "ece")


class Backtest:
    """What a run over data did, for a notebook. Tables are Arrow's; times are epoch seconds."""

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
