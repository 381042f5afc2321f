"""The full model of a backtest: trained on the task's schedule by the trainer's own steps, gated, shadowed, promoted.

Time is the run's event time. A training sees what the trainer would read from the logs at that moment, and takes no
event time itself: its shadow begins with the next batch. It knows steps of a pipeline, not files of events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.models.registry.registry import Registry
from weir.models.types import TrainingSet
from weir.online.batch import EventBatch, ExampleBatch, PredictionBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.wire import ModelUpdate
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.full_spec import FullScorer
from weir.online.task.spec import TaskSpec
from weir.streams.config.model_settings import ModelSettings
from weir.streams.errors import UsageError
from weir.streams.offline_models.loading import full_models
from weir.streams.outputs import retrain_request
from weir.streams.trainer.history.history_builder import HistoryBuilder, LoggedHistory, model_inputs
from weir.streams.trainer.history.logged_tables import KINDS, Kind, event_table, prediction_table
from weir.streams.trainer.job.job_runner import InlineRunner
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.job.real_steps import cut, workshop
from weir.streams.trainer.leased_state import ALONE_S
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import MemoryJournal
from weir.streams.trainer.task_state import Job
from weir.streams.trainer.task_supervisor import TaskSupervisor
from weir.streams.trainer.task_trainer import full_of

_LOOK_S: Final = 0.1
_STOP_S: Final = 30.0
_BLOCK_ROWS: Final = 16_384


class RunLog:
    """What a training may read of a run: predictions, examples and events, as they would stand in the logs."""

    def __init__(self, task: TaskSpec, features: Sequence[str]) -> None:
        self._task, self._inputs = task, model_inputs(features)
        self._columns = [list(features).index(name) for name in self._inputs]
        self._tables: dict[Kind, list[pa.Table]] = {kind: [] for kind in KINDS}
        self._held: list[tuple[PredictionBatch, float]] = []
        self._rows = 0

    def predictions(self, p: PredictionBatch, now: float) -> None:
        """Add scores made at ``now``."""
        self._held.append((p, now))
        self._rows += len(p)
        if self._rows >= _BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        whole = PredictionBatch.concat([p for p, _ in self._held])
        with np.errstate(over="ignore"):  # what float32 cannot hold is taken for 0 later
            x: Any = whole.features[:, self._columns].astype(np.float32)
        written_at = np.repeat([now for _, now in self._held], [len(p) for p, _ in self._held])
        self._tables["predictions"].append(prediction_table(replace(whole, features=x), self._inputs, written_at))
        self._held, self._rows = [], 0

    def examples(self, e: ExampleBatch, now: float) -> None:
        """Add what was learned at ``now``."""
        columns = {"event_id": pa.array(e.event_id, pa.string()), "n": e.n, "ts": e.ts,
                   "written_at": np.full(len(e), now), "y": e.y, "weight": e.weight}  # fmt: skip
        self._tables["examples"].append(pa.table(columns))

    def events(self, batch: EventBatch, item: str, now: float) -> None:
        """Add events scored at ``now``."""
        self._tables["events"].append(event_table(batch, item, np.full(len(batch), now)))

    def read(self, since: float) -> LoggedHistory:
        """What was written since then; what is older is forgotten, for no later training looks so far back."""
        self._flush()
        builder = HistoryBuilder()
        for kind, tables in self._tables.items():
            # In place, or what is too old would be passed over and kept.
            tables[:] = [table for table in tables if pc.max(table["written_at"]).as_py() >= since]
            builder.add(kind, tables)
        return builder.build()


class BacktestTrainer:
    """A ``weir.streams.backtest.runner.FullTrainer``; close it, because trainings run in a thread.

    Parameters
    ----------
    task : with ``[full]``.
    models : directory of the registry, which is to hold no versions of the task yet.
    work : directory for data sets; what is in it can be made again.
    stop : asked often; once true the training under way is given up.
    progress : told how far a part of a training is: the part, how much is done, of how much.
    """

    def __init__(
        self, task: TaskSpec, models: Path, work: Path, *, stop: Callable[[], bool] = lambda: False,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:  # fmt: skip
        spec, registry = full_of(task), Registry(str(models))
        self.task, self._stop, self._now = task, stop, -np.inf
        self._item = "user_id" if task.key == "merchant_id" else "merchant_id"
        # Only the encoder looks at what kind of event it was.
        self._with_events = "encoder" in spec.training.candidates
        self.columns = ColumnRequest((self._item,), ("amount",)) if self._with_events else ColumnRequest()
        settings = ModelSettings(provider="cpu", registry=str(models))
        self._full = full_models([task], settings, remote=spec.remote)
        if held := registry.versions(task.name):
            raise UsageError(
                f"{models} holds {len(held)} versions of task {task.name} already, and those of two runs would mix; "
                "give an empty directory"
            )
        self._jobs: dict[str, Job] = {}
        self._told: deque[ModelUpdate] = deque()
        shop = replace(workshop(self._data, work, InlineRunner()), progress=lambda _, *said: progress(*said))
        self._bench = TaskSupervisor(
            task, MemoryJournal(), RegistryShelf(registry), shop, self._told.append,
            # The lease goes by the wall clock, cutoffs and phases by event time.
            owner="backtest", lease_s=ALONE_S, clock=time.time, time=lambda: self._now,
        )  # fmt: skip

    def scorer(self) -> FullScorer | None:
        """See ``FullTrainer``."""
        return self._full.scorer(self.task.name)

    def begin(self, pipeline: TaskPipeline) -> None:
        """See ``FullTrainer``."""
        self._features = pipeline.features
        self._log = RunLog(self.task, pipeline.features)

    def observe(self, out: StepOutput, batch: EventBatch | None, now: float) -> None:
        """See ``FullTrainer``."""
        trainer = self._bench.trainer
        if out.predictions is not None:
            self._log.predictions(out.predictions, now)
        if batch is not None and self._with_events:
            self._log.events(batch, self._item, now)
        for r in out.requests:
            trainer.ask(retrain_request(self.task.name, r))
        for examples in out.examples:
            self._log.examples(examples, now)
            trainer.take(LiveRows.of(examples, self._features))

    def step(self, now: float) -> None:
        """See ``FullTrainer``."""
        if self._stop():
            return
        self._now = max(self._now, now)
        self._bench.trainer.tick()
        # A run has no heartbeat of its own: it beats where there is work, and the training ends before the next row is
        # scored, as it takes no event time.
        if self._bench.has_work:
            self._bench.beat()
            self._bench.start()
            while self._bench.working:
                self._bench.join(_LOOK_S)
                if self._stop():
                    self._bench.stop(_STOP_S)
        # Told by a training's thread, or by a decision on live labels; applied here, between two batches.
        self._full.apply_now([self._told.popleft() for _ in range(len(self._told))])
        self._note_jobs()

    def _note_jobs(self) -> None:
        """Remember every training: the document keeps the newest alone."""
        state = self._bench.state
        self._jobs |= {job.job_id: job for job in (*state.ended, state.job) if job is not None}

    def _data(self, task: TaskSpec, cutoff: float) -> TrainingSet:
        return cut(self._log.read(cutoff - full_of(task).training.window), task, cutoff)

    def report(self) -> list[dict[str, Any]]:
        """See ``FullTrainer``."""
        self._note_jobs()
        return [
            {"job": job.job_id, "cause": job.asked.cause, "cutoff": job.cutoff, "stage": job.stage,
             "version": job.version, "chosen": job.chosen, "gate": job.verdict, "why": job.reason,
             "metrics": dict(job.metrics)}
            for job in self._jobs.values()
        ]  # fmt: skip

    def close(self) -> None:
        """Give up the training under way."""
        self._bench.stop(_STOP_S)


@contextmanager
def training_of_run(
    task: TaskSpec, models: Path | None, stop: Callable[[], bool],
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[BacktestTrainer]:  # fmt: skip
    """A trainer for one run; without a directory of their own its versions go with the run."""
    with TemporaryDirectory(prefix="weir-backtest-") as folder:
        at = Path(folder)
        # Inside the folder: what the thread writes must be done before that is removed.
        with closing(BacktestTrainer(task, models or at / "models", at / "work", stop=stop, progress=progress)) as made:
            yield made
