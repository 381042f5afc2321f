"""What real jobs are done with: builders, the blend, histories read from Kafka and archives.

Functions here are sent by name to the process that trains; what they import, only that process loads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weir.models.dataset.cut import take, training_set
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import OrtModel
from weir.models.types import BoolVector, Builder, Built, Float32Vector, IntVector, TrainingSet
from weir.online.codec.limits import InputLimits
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.trainer.history.log_sources import EmbeddedSource, KafkaSource, LogSource, Piece
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_runner import Runner
from weir.streams.trainer.job.job_steps import Data, MakeBuilder, own_directory
from weir.streams.trainer.task_trainer import training_of

if TYPE_CHECKING:
    from weir.streams.trainer.history.history_builder import LoggedHistory


def score(built: Built, data: TrainingSet, rows: IntVector) -> Float32Vector:
    """Logits ``(k,)`` of ``rows`` of the history; with a state every event before them is stepped through.

    Raises ``ModelError`` for a model that takes columns the history does not have, or gives no finite numbers.
    """
    model = OrtModel.load(built.onnx, 1, built.inputs, provider="cpu", buckets=(1, 32, 512))
    if model.state:
        return replay(model, data.history)[rows]
    wanted, back = np.unique(rows, return_inverse=True)
    return replay(model, take(data.history, wanted))[back]


def encoder_builder(spec: FullSpec, processes: int = 1) -> Builder:
    """Trains the sequence encoder in so many processes; raises ``ModelError`` for settings it does not have."""
    from weir.models.training.encoder_builder import EncoderBuilder
    from weir.models.training.training_settings import EncoderSettings

    return EncoderBuilder(EncoderSettings.of({**encoder_shape(spec), **spec.training.encoder}), processes=processes)


def encoder_shape(spec: FullSpec) -> dict[str, object]:
    """The settings of an encoder that a task fixes; a surprise takes one of the floats that it grants for a state."""
    shape = {"embedding": spec.embedding, "metric": spec.training.metric, "hidden": spec.state - bool(spec.surprise)}
    return {**shape, "surprise": spec.surprise, "surprise_events": spec.surprise_events}


def trees_builder(spec: FullSpec) -> Builder:
    """Trains boosted trees."""
    del spec
    from weir.models.trees.tree_builder import TreesBuilder

    return TreesBuilder()


def with_other_precisions(built: Built, data: TrainingSet, rows: IntVector, y: BoolVector) -> Built:
    """The candidate with int8 and float16 graphs among its files, and what they cost; trees have none."""
    from weir.models.evaluation.quantise import with_variants

    return with_variants(built, data.history, rows, y)


def blended(parts: Sequence[Built], data: TrainingSet) -> Built:
    """The parts in one graph, weighed on the validation rows."""
    from weir.models.onnx.blend import blend, fit_weights

    # Weights must not be fitted on what the parts learned.
    kept = np.flatnonzero(data.history.ts[data.labels.row] >= data.valid_from)
    rows = data.labels.row[kept]
    logits = np.column_stack([score(part, data, rows) for part in parts])
    return blend(parts, fit_weights(logits, data.labels.y[kept], data.labels.weight[kept]))


@dataclass(frozen=True)
class KafkaData:
    """Data sets from the topics, and from an archive where there is one. It holds secrets, so it is not sent around."""

    settings: Settings

    def __call__(self, task: TaskSpec, cutoff: float) -> TrainingSet:
        """See ``weir.streams.trainer.job.job_steps.Data``."""
        try:
            # This is called in a thread that has no event loop.
            logged = asyncio.run(self._read(task, cutoff - training_of(task).window))
        except UsageError:  # nothing so new: old events are being replayed, so all that is kept is looked at
            logged = asyncio.run(self._read(task, None))
        return cut(logged, task, cutoff)

    async def _read(self, task: TaskSpec, since: float | None) -> LoggedHistory:
        from weir.streams.trainer.history.read_history import read_history

        s = self.settings
        async with KafkaSource(s, "trainer-data") as source:
            return await read_history(task, source=source, archive=s.trainer.archive, since=since, limits=s.limits)


@dataclass(frozen=True)
class DirectoryData:
    """Data sets from the logs of an embedded service, which may be writing them; it is sent to the child that reads.

    Parameters
    ----------
    directory : of the service, with ``inputs`` and ``outputs``.
    limits : what its tasks take.
    """

    directory: Path
    limits: InputLimits

    def __call__(self, task: TaskSpec, cutoff: float) -> TrainingSet:
        """See ``weir.streams.trainer.job.job_steps.Data``."""
        source = _TwoLogs(*(EmbeddedSource.of_directory(self.directory / name) for name in ("inputs", "outputs")))
        try:
            logged = self._read(task, source, cutoff - training_of(task).window)
        except UsageError:  # as in `KafkaData`
            logged = self._read(task, source, None)
        return cut(logged, task, cutoff)

    def _read(self, task: TaskSpec, source: LogSource, since: float | None) -> LoggedHistory:
        from weir.streams.trainer.history.read_history import read_history

        return asyncio.run(read_history(task, source=source, since=since, limits=self.limits))


class _TwoLogs:
    """Events in one log, what tasks made of them in another: a ``LogSource`` of both."""

    def __init__(self, inputs: EmbeddedSource, outputs: EmbeddedSource) -> None:
        self._inputs, self._outputs = inputs, outputs

    def _of(self, topic: str) -> EmbeddedSource:
        return self._inputs if topic in topics.INPUTS else self._outputs

    async def spans(self, topic: str, since: float | None, until: float | None) -> dict[int, tuple[int, int]]:
        """See ``LogSource``."""
        return await self._of(topic).spans(topic, since, until)

    def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[Piece]:
        """See ``LogSource``."""
        return self._of(topic).read(topic, partition, start, stop)

    async def identity(self, topic: str) -> str:
        """See ``LogSource``."""
        return await self._of(topic).identity(topic)


def cut(logged: LoggedHistory, task: TaskSpec, cutoff: float, delay_s: float | None = None) -> TrainingSet:
    """What a training may see at ``cutoff``, if labels take ``delay_s``; found from them where that is not given.

    Where what is logged ends earlier, old events are being replayed: the cutoff is then that end.
    """
    t, known = training_of(task), logged.labels.known_at
    end = max((float(times.max()) for times in (logged.history.ts, known) if len(times)), default=cutoff)
    return training_set(
        logged.history, logged.labels, min(cutoff, end), t.validation, delay_s,
        window_s=t.window, min_labels=t.min_labels, min_positives=t.min_positives,
    )  # fmt: skip


def workshop(data: Data, work: Path, runner: Runner, processes: int = 1) -> JobWorkshop:
    """What all trainers work with, whatever their data; an encoder is trained in so many ``processes``."""
    builders: dict[str, MakeBuilder] = {
        "encoder": partial(encoder_builder, processes=processes),
        "trees": trees_builder,
    }
    return JobWorkshop(data, builders, blended, score, runner, own_directory(work), with_other_precisions)


def kafka_workshop(settings: Settings, runner: Runner) -> JobWorkshop:
    """For the trainer process; it reads data sets itself, as it has the links and the secrets."""
    return workshop(KafkaData(settings), settings.trainer.work, runner, settings.trainer.processes)


def directory_workshop(settings: Settings, directory: Path, runner: Runner) -> JobWorkshop:
    """For an embedded service, whose trainings read its directory by themselves."""
    data = DirectoryData(directory.absolute(), settings.limits)
    # In the child: a directory needs neither links nor secrets.
    return replace(workshop(data, directory / "work", runner, settings.trainer.processes), gather=runner)
