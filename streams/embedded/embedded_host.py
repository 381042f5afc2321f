"""The embedded host: runs every task's pipeline over the embedded log, in the log's own order, in one process.

Record batches are processed in the order in which they were appended, so a run can be repeated bit for bit. With a
state directory the host writes checkpoints (state of every stage, the place in the log) and a later host resumes from
the newest one: what the old one appended after it is cut off and made again, so nothing is lost or doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np

from weir.online.batch import FloatVector
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.wire import ModelUpdate
from weir.online.errors import UNREADABLE
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import DECODERS, Admission, decode_labels_in_time
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.column_plan import union
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.checkpoint import Checkpoints
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import StateError, UsageError
from weir.streams.offline_models.model_updates import decode_updates
from weir.streams.offline_models.serving import FullModels
from weir.streams.outputs import dead_letter, records_of
from weir.streams.records import RefusedRecord, oversized
from weir.streams.reject_limit import RejectLimit, RejectPolicy

READ = (*topics.INPUTS, topics.MODEL_UPDATES)
"""What the host reads, in the order of the log."""


@dataclass
class HostStats:
    """Counts since the start (of the first run, when resumed)."""

    events: int = 0
    labels: int = 0
    predictions: int = 0
    alerts: int = 0
    examples: int = 0
    detections: int = 0
    requests: int = 0
    dead_letters: int = 0
    unknown_task_labels: int = 0


class _State(msgspec.Struct):
    seq: int
    """Where the log ended."""
    done: int
    """Up to where inputs were processed; what lies between was waiting."""
    stats: dict[str, int]
    intake: dict[str, bytes]
    tasks: dict[str, bytes]
    store: bytes
    extra: bytes


Observer = Callable[[TaskPipeline, StepOutput], None]


class EmbeddedHost:
    """Hosts tasks on an ``EmbeddedLog``.

    Parameters
    ----------
    tasks : the tasks, each with a name of its own.
    log : where inputs are read and outputs appended.
    intake : what event streams accept.
    rejects : when bad input stops the host.
    checkpoints : directory of checkpoints; ``None`` keeps no state.
    observe : called with every step's output, for a screen; it must not change it.
    full : the full models, which ``model-updates`` records of the log swap, each at its place in the log; without them
        such records change nothing.
    limits : what numbers records may hold.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        log: EmbeddedLog,
        *,
        intake: IntakePolicy | None = None,
        rejects: RejectPolicy | None = None,
        checkpoints: Path | None = None,
        observe: Observer | None = None,
        full: FullModels | None = None,
        limits: InputLimits = DEFAULT_LIMITS,
    ) -> None:
        names = [t.name for t in tasks]
        if not tasks or len(set(names)) != len(names):
            raise UsageError(f"tasks {names}: give at least one, each with a name of its own")
        self.log, self.stats = log, HostStats()
        self.store = MemoryFeatureStore()
        self.full = full or FullModels()
        self.pipelines = {t.name: TaskPipeline(t, self.store, self.full.scorer(t.name)) for t in tasks}
        self._of_stream = {
            stream: [p for p in self.pipelines.values() if p.task.stream == stream] for stream in DECODERS
        }
        self._columns = {s: union([p.columns for p in ps]) for s, ps in self._of_stream.items()}
        self._intake_policy = intake or IntakePolicy()
        self.intake: dict[str, Admission] = {}
        self._input_limits = limits
        self._limit = RejectLimit(rejects or RejectPolicy())
        self._checkpoints = Checkpoints(checkpoints) if checkpoints is not None else None
        self._observe = observe
        self.seq = 0
        """Sequence number of the next batch to process."""
        self.resumed_extra: bytes = b""

    def run_pending(self) -> int:
        """Process every batch that has been appended; returns how many records that were."""
        done = 0
        for batch in self.log.read(READ, self.seq):
            self.process(batch)
            done += len(batch.records)
        return done

    def process(self, batch: LoggedBatch) -> None:
        """Process one input batch to the end, its outputs appended."""
        now = max(record.ts for record in batch.records)
        if batch.topic == topics.LABELS:
            self._labels(batch, now)
        elif batch.topic == topics.MODEL_UPDATES:
            self._updates(batch, now)
        else:
            self._events(batch, now)
        self.seq = batch.seq + 1

    def _events(self, batch: LoggedBatch, now: float) -> None:
        pipelines, raw = self._of_stream[batch.topic], self._raw(batch)
        decoded = DECODERS[batch.topic](raw, self._columns[batch.topic], limits=self._input_limits)
        lane = f"{batch.topic}-{batch.partition}"
        if lane not in self.intake:  # a memory of ids is too dear to build one for nothing with each batch
            self.intake[lane] = Admission(self._intake_policy)
        admitted, refused = self.intake[lane].admit_decoded(decoded, _arrived(batch))
        self._refuse(batch, refused, now)
        self.stats.events += len(admitted.batch)
        for pipeline in pipelines:
            self._publish(pipeline, pipeline.events(admitted.batch), now)

    def _raw(self, batch: LoggedBatch) -> list[bytes]:
        """The records to decode; nothing of one that is too large, which `_refuse` says."""
        return [r.value if len(r.value) <= self._input_limits.record_bytes else b"" for r in batch.records]

    def _labels(self, batch: LoggedBatch, now: float) -> None:
        decoded = decode_labels_in_time(self._raw(batch), _arrived(batch), self._intake_policy, self._input_limits)
        self._refuse(batch, [(r.index, r.reason) for r in decoded.rejects], now)
        self.stats.labels += len(decoded.batch)
        for task, labels in decoded.by_task().items():
            if task not in self.pipelines:
                self.stats.unknown_task_labels += len(labels)
                continue
            pipeline = self.pipelines[task]
            self._publish(pipeline, pipeline.labels(labels), now)

    def _updates(self, batch: LoggedBatch, now: float) -> None:
        """Swap models; what comes behind this place in the log is scored by them, here and in every repetition."""
        decoded = decode_updates(self._raw(batch))
        self._refuse(batch, [(r.index, r.reason) for r in decoded.rejects], now)
        self.full.apply_now(decoded.updates)

    def _refuse(self, batch: LoggedBatch, refused: list[tuple[int, str]], now: float) -> None:
        """Send refused records to the dead letters, before the host goes on."""
        letters, largest = [], self._input_limits.record_bytes
        for i, why in sorted(refused):
            r = batch.records[i]
            reason = oversized(len(r.value), largest) if len(r.value) > largest else why
            one = RefusedRecord(batch.base_offset + i, reason, r)
            letters.append(dead_letter(batch.topic, batch.partition, one, now, largest))
        if letters:
            self.log.append(topics.DEAD_LETTERS, letters)
            self.stats.dead_letters += len(letters)
        self._limit.update(len(batch.records), len(refused), refused[-1][1] if refused else "")

    def _publish(self, pipeline: TaskPipeline, out: StepOutput, now: float) -> None:
        for topic, records in records_of(out, pipeline, now).items():
            self.log.append(topic, records)
        s = self.stats
        s.predictions += len(out.predictions) if out.predictions is not None else 0
        s.alerts += len(out.alerts)
        s.examples += sum(len(e) for e in out.examples)
        s.detections += len(out.detections)
        s.requests += len(out.requests)
        if self._observe is not None:
            self._observe(pipeline, out)

    def checkpoint(self, extra: bytes = b"") -> None:
        """Write the state of everything; a no-op without a state directory. ``extra`` is the caller's own."""
        if self._checkpoints is None:
            return
        self.log.sync()
        state = _State(
            self.log.next_seq,
            self.seq,
            {f.name: getattr(self.stats, f.name) for f in fields(self.stats)},
            {lane: intake.snapshot() for lane, intake in self.intake.items()},
            {name: p.snapshot() for name, p in self.pipelines.items()},
            self.store.snapshot(),
            extra,
        )
        self._checkpoints.write(msgspec.msgpack.encode(state))

    def resume(self) -> bool:
        """Continue from the newest checkpoint, if there is one; raises ``StateError`` when it is of other tasks.

        Everything appended to the log after the checkpoint, input too, is cut off: the caller produces it again.
        """
        data = self._checkpoints.newest() if self._checkpoints is not None else None
        if data is None:
            self.log.truncate(0)
            return False
        try:
            state = msgspec.msgpack.decode(data, type=_State)
        except UNREADABLE as exc:
            raise StateError(f"the checkpoint cannot be read: {exc}; start with a fresh directory") from exc
        if set(state.tasks) != set(self.pipelines):
            raise StateError(
                f"the checkpoint is of the tasks {sorted(state.tasks)}, now there are {sorted(self.pipelines)}; "
                "start with a fresh directory"
            )
        if state.seq > self.log.next_seq:
            raise StateError(
                f"the checkpoint was written at batch {state.seq} of the log, which ends at {self.log.next_seq}: it is "
                "of another log; start with a fresh directory"
            )
        self.log.truncate(state.seq)
        self.store.restore(state.store)
        for name, held in state.tasks.items():
            self.pipelines[name].restore(held)
        for lane, held in state.intake.items():
            self.intake[lane] = Admission(self._intake_policy)
            self.intake[lane].restore(held)
        self.stats = HostStats(**state.stats)
        self.seq, self.resumed_extra = state.done, state.extra
        updates: list[ModelUpdate] = []
        for batch in self.log.read([topics.MODEL_UPDATES], 0):
            if batch.seq < self.seq:
                updates += decode_updates(self._raw(batch)).updates
        self.full.resume(updates)
        return True


def _arrived(batch: LoggedBatch) -> FloatVector:
    return np.array([r.ts for r in batch.records], dtype=np.float64)
