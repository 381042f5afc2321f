"""Replays a labelled file through a task's pipeline, its full model retrained at fixed times by the trainer's parts.

Nothing is scored by a model that saw its label, and no training sees a label before its delay has passed. It knows one
file of rows with labels, not which protocol they belong to.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weir.models.dataset.cut import training_set
from weir.models.errors import ModelError
from weir.models.serving.active_models import Pair
from weir.models.serving.model_runner import FullRunner
from weir.models.serving.ort_model import OrtModel
from weir.models.serving.state_row import StateLayout
from weir.models.types import Builder, Built, Float32Matrix, FloatVector, History, IntVector, Labels, TrainingSet
from weir.online.batch import LabelBatch, PredictionBatch
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource, SourceBatch
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.trainer.job.real_steps import blended, encoder_builder, score, trees_builder
from weir.streams.trainer.task_trainer import full_of, training_of

BUILDERS: Mapping[str, Callable[[FullSpec], Builder]] = {"trees": trees_builder, "encoder": encoder_builder}
DAY_S = 86_400.0
FRESH_EVERY = 4
"""Every so many retrainings begin anew; those between go on from the one before (an encoder that first saw two weeks of
labels never caught up by fine-tuning alone)."""


@dataclass
class Logged:
    """What was scored so far, in order, as columns in blocks."""

    inputs: tuple[str, ...]
    event_id: list[str] = field(default_factory=list)
    blocks: dict[str, list[FloatVector]] = field(default_factory=dict)
    x: list[Float32Matrix] = field(default_factory=list)

    def add(self, columns: Mapping[str, FloatVector], x: Float32Matrix, event_id: list[str]) -> None:
        """Add a block."""
        self.event_id += event_id
        self.x.append(x)
        for name, values in columns.items():
            self.blocks.setdefault(name, []).append(values)

    def column(self, name: str) -> FloatVector:
        """``(n,)``, made one block on the way."""
        self.blocks[name] = [np.concatenate(self.blocks[name])]
        return self.blocks[name][0]

    def matrix(self) -> Float32Matrix:
        """``(n, D)``, made one block on the way."""
        self.x = [np.concatenate(self.x)]
        return self.x[0]

    def history(self) -> History:
        """As a trainer reads it back."""
        n = len(self.event_id)
        entity, item = (self.column(name).astype(np.int64) for name in ("entity", "item"))
        none: IntVector = np.zeros(n, dtype=np.int64)
        return History(
            self.inputs, self.event_id, entity, self.column("ts"), self.matrix(), self.column("score"), none,
            ("purchase",), self.column("amount"), item,
        )  # fmt: skip

    def labels(self, delay_s: float) -> Labels:
        """Of every row, known ``delay_s`` after its event."""
        y = self.column("y") > 0
        return Labels(np.arange(len(y)), y, np.ones(len(y)), self.column("ts") + delay_s)


@dataclass
class Trained:
    """One retraining."""

    cutoff: float
    built: dict[str, Built]
    cpu_s: dict[str, float]


@dataclass
class Replay:
    """A pipeline being fed a file.

    Parameters
    ----------
    task : with a ``[source]`` that has labels; without ``[full]`` the online model is alone.
    path : the file.
    kinds : which candidates are trained; of several, their blend serves and the others are told beside it.
    cutoffs : event times of the retrainings, increasing.
    work : a directory for checkpoints.
    told : progress.
    """

    task: TaskSpec
    path: Path
    kinds: Sequence[str] = ()
    cutoffs: Sequence[float] = ()
    work: Path = Path()
    told: Callable[[str], None] = print
    trained: list[Trained] = field(default_factory=list)

    def run(self, until: float = np.inf) -> dict[str, FloatVector]:
        """Scores of every row up to ``until``: ``score`` (a probability), and logits of each kind, NaN where none was.

        ``event_id`` is the row's place in the file, which is a number here.
        """
        self._start()
        waiting, due = deque[tuple[float, LabelBatch]](), deque(self.cutoffs)
        assert self.task.source is not None, "the task needs a [source]"
        for rows in self._source.batches(self.task.source.batch_size):
            now = float(rows.batch.ts[0])
            if now > until:
                break
            while waiting and waiting[0][0] <= now:
                self._pipeline.labels(waiting.popleft()[1])
            while due and due[0] <= now:
                self._retrain(due.popleft())
            waiting.append((float(rows.batch.ts[-1]) + self._delay_s, self._labels(rows)))
            made = self._pipeline.events(rows.batch).predictions
            assert made is not None, "every row is scored"
            self._log(rows, made)
        return self._scores()

    def _start(self) -> None:
        task = self.task
        assert task.source is not None, "the task needs a [source]"
        self._delay_s = task.source.label_delay
        shape = TaskPipeline(task, MemoryFeatureStore()).scoring.shape  # says what the full model will be given
        self._runner = None
        if (full := task.full) is not None:
            layout = StateLayout(full.state, full.history, shape.full_inputs)
            self._runner = FullRunner(layout, full.embedding, full.reasons, bool(full.surprise))
        self._pipeline = TaskPipeline(task, MemoryFeatureStore(), full=self._runner)
        self._source = FileSource(task, self._pipeline.columns, [self.path])
        inputs = shape.full_inputs or self._pipeline.features
        self._columns = [self._pipeline.features.index(name) for name in inputs]
        self._logged = Logged(inputs)

    def _labels(self, rows: SourceBatch) -> LabelBatch:
        """Known when the label of the last of them is."""
        b, n = rows.batch, len(rows.batch)
        assert rows.label is not None, "the source needs a label column"
        ids = [f"{event_id}/label" for event_id in b.event_id]
        entities = [key or "" for key in b.entities[self.task.key]]
        return LabelBatch(ids, entities, list(b.event_id), b.ts, rows.label, np.ones(n))

    def _log(self, rows: SourceBatch, made: PredictionBatch) -> None:
        b, features, names = rows.batch, made.features, self._pipeline.features
        assert rows.label is not None, "the source needs a label column"
        columns = {
            "ts": b.ts, "score": made.score, "y": rows.label.astype(np.float64), "amount": b.numbers["amount"],
            "entity": np.array(b.entities["user_id"], dtype=np.float64),
            "item": np.array(b.entities["merchant_id"], dtype=np.float64),
        }  # fmt: skip
        if self._runner is not None:
            for name in ("full.logit", "full.known", "full.shadow_logit", "full.shadow_version"):
                columns[name] = features[:, names.index(name)]
        self._logged.add(columns, features[:, self._columns].astype(np.float32), made.event_id)

    def _retrain(self, cutoff: float) -> None:
        """Train every kind on what is known at ``cutoff``, and let their blend serve."""
        assert self._runner is not None, "retraining needs [full]"
        t = training_of(self.task)
        try:
            data = training_set(
                self._logged.history(), self._logged.labels(self._delay_s), cutoff, t.validation, self._delay_s,
                window_s=t.window, min_labels=t.min_labels, min_positives=t.min_positives,
            )  # fmt: skip
        except ModelError as exc:
            self.told(f"  not trained: {exc}")
            return
        before = self.trained[-1].built if len(self.trained) % FRESH_EVERY else {}
        built: dict[str, Built] = {}
        cpu: dict[str, float] = {}
        for kind in self.kinds:
            start = time.process_time()
            warm = before[kind].files if kind in before else None
            built[kind] = BUILDERS[kind](full_of(self.task)).build(
                data, self.work / f"{kind}-{len(self.trained)}", t.seed, warm_start=warm
            )
            cpu[kind] = time.process_time() - start
        if len(built) > 1:
            built["blend"] = blended(list(built.values()), data)
        self.trained.append(Trained(cutoff, built, cpu))
        self._serve(built)
        self._tell(data.history, cutoff)

    def _serve(self, built: Mapping[str, Built]) -> None:
        assert self._runner is not None, "retraining needs [full]"
        version = 2 * len(self.trained)
        kind = "blend" if "blend" in built else next(iter(built))
        champion = OrtModel.load(built[kind].onnx, version, built[kind].inputs, provider="cpu")
        shadow = None
        if kind == "blend" and "encoder" in built:
            e = built["encoder"]
            shadow = OrtModel.load(e.onnx, version + 1, e.inputs, provider="cpu")
        self._runner.slots.swap(Pair(champion, shadow))

    def _tell(self, history: History, cutoff: float) -> None:
        one = self.trained[-1]
        cost = ", ".join(f"{kind} {s:.0f} s" for kind, s in one.cpu_s.items())
        weights = {k: round(v, 2) for k, v in one.built.get("blend", next(iter(one.built.values()))).metrics.items()
                   if k.startswith("blend")}  # fmt: skip
        day = np.datetime64(int(cutoff), "s").astype("datetime64[D]")
        self.told(f"  {day}: {len(history):,} rows, CPU {cost} {weights or ''}")

    def _scores(self) -> dict[str, FloatVector]:
        log = self._logged
        out = {"event_id": np.array(log.event_id, dtype=np.float64), "score": log.column("score")}
        if not self.trained:
            return out
        known = log.column("full.known") > 0
        first = "blend" if len(self.kinds) > 1 else self.kinds[0]
        out[first] = np.where(known, log.column("full.logit"), np.nan)
        if first == "blend" and "encoder" in self.kinds:
            out["encoder"] = np.where(log.column("full.shadow_version") > 0, log.column("full.shadow_logit"), np.nan)
        if first == "blend" and "trees" in self.kinds:
            out["trees"] = self._without_state("trees")
        return out

    def _without_state(self, kind: str) -> FloatVector:
        """What a model that needs no state would have said while its blend served: it can be asked afterwards."""
        log, ts = self._logged, self._logged.column("ts")
        out = np.full(len(ts), np.nan)
        data = TrainingSet(log.history(), log.labels(0.0), np.inf, np.inf)
        ends = [*(t.cutoff for t in self.trained[1:]), np.inf]
        for one, end in zip(self.trained, ends, strict=True):
            rows = np.flatnonzero((ts >= one.cutoff) & (ts < end))
            out[rows] = score(one.built[kind], data, rows)
        return out
