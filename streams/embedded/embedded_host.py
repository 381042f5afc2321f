"""The embedded host: runs every task's pipeline over the embedded log, in the log's own order, in one process.

Record batches are processed in the order in which they were appended, so a run can be repeated bit for bit. With a
state directory the host writes checkpoints (state of every stage, the place in the log) and a later host resumes from
the newest one. What the old one appended after it is cut off: in one log for both, inputs too, which the caller makes
again; with a log of their own only outputs, which follow from the inputs that are kept. Nothing is lost or doubled.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from weir.online.batch import FloatVector
from weir.online.codec.decode import DecodedEvents, DecodedLabels, decode_labels
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import DECODERS, Admission, labels_in_time
from weir.online.stages.next_pipeline import NextPipeline
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.column_plan import union
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.checkpoint import Checkpoints
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.embedded.host_state import HostState, HostStats, Outcome, check_kept, decode_state
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.embedded.ticks import tick_times
from weir.streams.errors import UsageError
from weir.streams.offline_models.model_updates import decode_updates
from weir.streams.offline_models.serving import FullModels
from weir.streams.outputs import dead_letter, ranked_records, records_of
from weir.streams.records import TS, RefusedRecord, oversized
from weir.streams.reject_limit import RejectLimit, RejectPolicy

log = logging.getLogger(__name__)

READ = (*topics.INPUTS, topics.MODEL_UPDATES, topics.TICKS)
"""What the host reads, in the order of the log."""

Decoded = DecodedEvents | DecodedLabels


Observer = Callable[[TaskPipeline, StepOutput], None]


class EmbeddedHost:
    """Hosts tasks on an ``EmbeddedLog``.

    Parameters
    ----------
    tasks : the tasks, each with a name of its own; those of ``kind = "next"`` are in ``recommenders``, not among the
        ``pipelines``, and nobody observes them.
    log : where inputs are read; and outputs appended, unless ``outputs`` is given.
    outputs : a log for outputs alone. Inputs are then never cut, and outputs are what follows from them: a crash
        changes neither the offset nor a byte of any of them.
    intake : what event streams accept.
    rejects : when bad input stops the host.
    checkpoints : directory of checkpoints; ``None`` keeps no state.
    observe : called with every step's output, for a screen; it must not change it.
    full : the full models, which ``model-updates`` records of the log swap, each at its place in the log; without them
        such records change nothing.
    limits : what numbers records may hold.
    decisions : whether what was decided on each prediction is appended to ``decisions``, too.
    fitting : whether `resume` takes of a checkpoint what fits the tasks as they are now, instead of refusing it.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec | NextTask],
        log: EmbeddedLog,
        outputs: EmbeddedLog | None = None,
        *,
        intake: IntakePolicy | None = None,
        rejects: RejectPolicy | None = None,
        checkpoints: Path | None = None,
        observe: Observer | None = None,
        full: FullModels | None = None,
        limits: InputLimits = DEFAULT_LIMITS,
        decisions: bool = False,
        fitting: bool = False,
    ) -> None:
        names = [t.name for t in tasks]
        if not tasks or len(set(names)) != len(names):
            raise UsageError(f"tasks {names}: give at least one, each with a name of its own")
        self.log, self.outputs, self.stats = log, log if outputs is None else outputs, HostStats()
        self.store = MemoryFeatureStore()
        self.full = full or FullModels()
        self._intake_policy = policy = intake or IntakePolicy()
        self.pipelines = {
            t.name: TaskPipeline(t, self.store, self.full.scorer(t.name), max_step=policy.max_step)
            for t in tasks
            if isinstance(t, TaskSpec)
        }
        self.recommenders = {t.name: NextPipeline(t) for t in tasks if isinstance(t, NextTask)}
        self._all: dict[str, TaskPipeline | NextPipeline] = {**self.pipelines, **self.recommenders}
        self._of_stream = {
            stream: [p for p in self.pipelines.values() if p.task.stream == stream] for stream in DECODERS
        }
        self._columns = {
            s: union([p.columns for p in self._all.values() if p.task.stream == s]) for s in self._of_stream
        }
        self._watches = [p.scoring.watch for p in self.pipelines.values()]
        self._watches += [p.watch for p in self.recommenders.values()]
        self.intake: dict[str, Admission] = {}
        self._input_limits = limits
        self._limit = RejectLimit(rejects or RejectPolicy())
        self._checkpoints = Checkpoints(checkpoints) if checkpoints is not None else None
        self._observe, self._decisions, self._fitting = observe, decisions, fitting
        self.seq = 0
        """Sequence number of the next batch to process."""
        self._swaps: list[bytes] = []
        """Every record of ``model-updates`` that was processed: the log may drop them before they stop to matter."""
        self.resumed_extra: bytes = b""
        self.anew: list[str] = []
        """What `resume` began anew, a sentence each."""

    def decode(self, topic: str, raw: Sequence[bytes]) -> Decoded:
        """Decode records of an events topic, or of ``labels``, as `process` wants them; from any thread."""
        raw = self._sized(raw)
        if topic == topics.LABELS:
            return decode_labels(raw, limits=self._input_limits)
        return DECODERS[topic](raw, self._columns[topic], limits=self._input_limits)

    def _sized(self, raw: Sequence[bytes]) -> list[bytes]:
        """The records to decode; nothing of one that is too large, which `_refuse` says."""
        # An empty one rather than none, so that every record keeps its place.
        return [value if len(value) <= self._input_limits.record_bytes else b"" for value in raw]

    def process(self, batch: LoggedBatch, decoded: Decoded | None = None) -> Outcome:
        """Process one input batch to the end, its outputs appended; what became of its records.

        ``decoded`` is what `decode` gave for exactly these records, where the caller has it already.
        """
        # The log's time, no clock's: a replay stamps its outputs as the first run did.
        now = max(map(TS, batch.records))
        if batch.topic == topics.LABELS:
            outcome = self._labels(batch, now, decoded)
        elif batch.topic == topics.MODEL_UPDATES:
            outcome = self._updates(batch, now)
        elif batch.topic == topics.TICKS:
            outcome = self._ticks(batch, now)
        else:
            outcome = self._events(batch, now, decoded)
        self.seq = batch.seq + 1
        return outcome

    def _events(self, batch: LoggedBatch, now: float, decoded: Decoded | None) -> Outcome:
        if decoded is None:
            decoded = self.decode(batch.topic, _values(batch))
        assert isinstance(decoded, DecodedEvents)
        lane = f"{batch.topic}-{batch.partition}"
        if lane not in self.intake:  # a memory of ids is too dear to build one for nothing with each batch
            self.intake[lane] = Admission(self._intake_policy)
        admitted, refused = self.intake[lane].admit_decoded(decoded, _arrived(batch))
        outcome = self._refuse(batch, refused, now)
        if admitted.duplicates:
            outcome = outcome.with_admitted(decoded.index[admitted.rows])
        self.stats.events += len(admitted.batch)
        for pipeline in self._of_stream[batch.topic]:
            self._publish(pipeline, pipeline.events(admitted.batch), now)
        for name, recommender in self.recommenders.items():
            told = recommender.events(admitted.batch) if recommender.task.stream == batch.topic else None
            if told is not None:
                self.outputs.append(topics.PREDICTIONS, ranked_records(told, name, now))
                self.stats.predictions += len(told)
        for watch in self._watches:
            for words in watch.news() if watch.open else ():
                log.warning("%s", words)
        return outcome

    def _labels(self, batch: LoggedBatch, now: float, decoded: Decoded | None) -> Outcome:
        raw = _values(batch)
        labels = self.decode(batch.topic, raw) if decoded is None else decoded
        assert isinstance(labels, DecodedLabels)
        labels = labels_in_time(labels, raw, _arrived(batch), self._intake_policy)
        outcome = self._refuse(batch, [(r.index, r.reason) for r in labels.rejects], now)
        self.stats.labels += len(labels.batch)
        for task, known in labels.by_task().items():
            if task not in self.pipelines:
                self.stats.unknown_task_labels += len(known)
                continue
            pipeline = self.pipelines[task]
            self._publish(pipeline, pipeline.labels(known), now)
        return outcome

    def _updates(self, batch: LoggedBatch, now: float) -> Outcome:
        """Swap models; what comes behind this place in the log is scored by them, here and in every repetition."""
        raw = self._sized(_values(batch))
        decoded = decode_updates(raw)
        outcome = self._refuse(batch, [(r.index, r.reason) for r in decoded.rejects], now)
        self.full.apply_now(decoded.updates)
        # Kept beside the log, from which retention takes what is old: a checkpoint has to name all models that count.
        self._swaps += raw
        return outcome

    def _ticks(self, batch: LoggedBatch, now: float) -> Outcome:
        """Let time pass in the tasks of a stream; its watermark stays, so no event that comes later is late by it."""
        times, refused = tick_times(batch.records, self._intake_policy.max_ahead)
        outcome = self._refuse(batch, refused, now)
        for stream, at in times:
            for pipeline in self._of_stream[stream] if stream else self.pipelines.values():
                self._publish(pipeline, pipeline.advance(at), now)
        return outcome

    def put_aside(self, batch: LoggedBatch, why: str) -> Outcome:
        """Send a whole batch to the dead letters instead of processing it."""
        self.seq = batch.seq + 1
        return self._refuse(batch, [(i, why) for i in range(len(batch.records))], batch.records[-1].ts)

    def _refuse(self, batch: LoggedBatch, refused: list[tuple[int, str]], now: float) -> Outcome:
        """Send refused records to the dead letters, before the host goes on; the outcome, with no repeat as yet."""
        letters, reasons, largest = [], {}, self._input_limits.record_bytes
        for i, why in sorted(refused):
            r = batch.records[i]
            reasons[i] = oversized(len(r.value), largest) if len(r.value) > largest else why
            one = RefusedRecord(batch.base_offset + i, reasons[i], r)
            letters.append(dead_letter(batch.topic, batch.partition, one, now, largest))
        if letters:
            self.outputs.append(topics.DEAD_LETTERS, letters)
            self.stats.dead_letters += len(letters)
        # Behind the letters: a host that stops for bad input has told of each record first.
        self._limit.update(len(batch.records), len(refused), refused[-1][1] if refused else "")
        return Outcome(len(batch.records), reasons)

    def _publish(self, pipeline: TaskPipeline, out: StepOutput, now: float) -> None:
        for topic, records in records_of(out, pipeline, now, decisions=self._decisions).items():
            self.outputs.append(topic, records)
        s = self.stats
        s.predictions += len(out.predictions) if out.predictions is not None else 0
        s.alerts += len(out.alerts)
        s.examples += sum(map(len, out.examples))
        s.detections += len(out.detections)
        s.requests += len(out.requests)
        if self._observe is not None:
            self._observe(pipeline, out)

    def checkpoint(self, extra: bytes = b"") -> None:
        """Write the state of everything; a no-op without a state directory. ``extra`` is the caller's own."""
        if self._checkpoints is None:
            return
        # A checkpoint of records that a power cut can take would be ahead of its log.
        self.log.sync()
        self.outputs.sync()
        self._checkpoints.write(self._state(extra))

    def begin_checkpoint(self, extra: bytes = b"") -> Future[None]:
        """Write the state as it is now while the host goes on; one at a time.

        The future is done when the checkpoint is in place, and raises ``StateError`` or ``LogError`` where that fails:
        the one before it is then the newest.
        """
        if self._checkpoints is None:
            raise UsageError("the host keeps no state; give it a directory of checkpoints")
        for pipeline in self.pipelines.values():
            pipeline.labelling.log.settle()  # here: it calls compiled code, whose locks a child of a fork must not take
        done: Future[None] = Future()
        # Here, between two batches; syncing and waiting for the child are for the thread.
        put_in_place = self._checkpoints.fork(lambda: self._state(extra))

        def finish() -> None:
            try:
                self.log.sync()  # first: a checkpoint must not be of records that a power cut can take
                self.outputs.sync()
                put_in_place()
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                done.set_exception(error)
            else:
                done.set_result(None)

        # No daemon: a process that ends waits for the checkpoint that it has begun.
        threading.Thread(target=finish, name="weir-checkpoint").start()
        return done

    def _state(self, extra: bytes) -> bytes:
        state = HostState(
            self.log.next_seq,
            self.seq,
            asdict(self.stats),
            {lane: intake.snapshot() for lane, intake in self.intake.items()},
            {name: p.snapshot() for name, p in self._all.items()},
            self.store.snapshot(),
            extra,
            self.outputs.next_seq if self._apart else None,
            self._swaps,
        )
        return msgspec.msgpack.encode(state)

    @property
    def _apart(self) -> bool:
        """Whether outputs have a log of their own."""
        return self.outputs is not self.log

    def resume(self) -> bool:
        """Continue from the newest checkpoint, if there is one; raises ``StateError`` where it is of others.

        Others are other tasks or other logs. In one log everything appended after the checkpoint, input too, is cut
        off: the caller produces it again. With a log of their own only outputs are cut: they
        are made again by processing the inputs from ``seq`` on.
        """
        data = self._checkpoints.newest() if self._checkpoints is not None else None
        if data is None:
            check_kept(0, self.log.first_seq)
            # Made before the first checkpoint: they follow from inputs, and are made again.
            self.outputs.truncate(0)
            return False
        ends = self.log.first_seq, self.log.next_seq, self.outputs.next_seq if self._apart else None
        state = decode_state(data, None if self._fitting else self._all, *ends)
        # Only behind all checks: what is cut off does not come back.
        self.outputs.truncate(state.seq if state.outputs is None else state.outputs)
        self._restore_tasks(state)
        for lane, held in state.intake.items():
            self.intake[lane] = Admission(self._intake_policy)
            self.intake[lane].restore(held)
        self.stats = HostStats(**state.stats)
        self.seq, self.resumed_extra = state.done, state.extra
        self._swaps = self._swaps_before(state.done) if state.swaps is None else state.swaps
        self.full.resume(decode_updates(self._swaps).updates)
        return True

    def _restore_tasks(self, state: HostState) -> None:
        if not self._fitting:
            self.store.restore(state.store)
            for name, held in state.tasks.items():
                self._all[name].restore(held)
            return
        tables, stay = self.store.restore_fitting(state.store), state.tasks.keys() & self._all
        # Of tasks that are new or gone it is enough to say that; an entity that has another name is told by its tables.
        self.anew = [f"table {name}: {what}" for name, what in tables.items() if name.partition(".")[0] in stay]
        for name, pipeline in self._all.items():
            if name not in state.tasks:
                self.anew.append(f"task {name}: it is new")
                continue
            self.anew += [f"task {name}: {part}" for part in pipeline.restore_fitting(state.tasks[name])]
        self.anew += [f"task {name}: it is gone, and its state with it" for name in state.tasks.keys() - self._all]

    def _swaps_before(self, seq: int) -> list[bytes]:
        """Of a checkpoint that does not hold them: it is of before logs dropped anything."""
        found: list[bytes] = []
        for batch in self.log.read([topics.MODEL_UPDATES], 0):
            if batch.seq < seq:
                found += self._sized(_values(batch))
        return found


def _values(batch: LoggedBatch) -> list[bytes]:
    return [record.value for record in batch.records]


def _arrived(batch: LoggedBatch) -> FloatVector:
    return np.array([*map(TS, batch.records)], dtype=np.float64)
