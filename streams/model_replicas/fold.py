"""One task's model as a fold over the ``examples`` log: skip repeats, learn the rest, know where it stands.

Pure but for its place in ``streams``: batches and offsets in, a model out. Two folds over the same log from any two of
its states hold bit-identical models at the same version, however their reads were cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from weir.online.batch import BoolVector, ExampleBatch, IntVector
from weir.online.codec.example_log import decode_example_log
from weir.online.errors import StateError, TaskError
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.online_model import ModelSnapshot
from weir.online.stages.quarantine import Quarantine, between, find_quarantines, taken_back
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.model_replicas.timeline import ModelTimeline

CAPACITY: Final = 200_000
"""Part of what a model is: replicas with different memories could learn different examples."""


class Identities:
    """Remembers the newest ``capacity`` identities that were new.

    A label lane that starts again publishes its last examples again. Every replica must call the same records repeats,
    so what is remembered depends on the examples learned and on nothing else: not on when a replica started, nor on how
    it cut its reads. Identities are kept as 64-bit hashes: that two of 200,000 agree by chance has a probability of
    1e-9, and would cost one example, the same one on every replica.

    Examples
    --------
    >>> seen = Identities()
    >>> seen.keep(["a", "a", "b"], np.array([0, 1, 0])).tolist()
    [True, True, True]
    >>> seen.keep(["a", "c"], np.array([1, 0])).tolist()
    [False, True]
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._ring = np.zeros(capacity, np.uint64)
        self._held: set[int] = set()
        self._count = 0

    def keep(self, event_ids: Sequence[str], n: IntVector) -> BoolVector:
        """Tell repeats from new examples and remember the new ones; ``n`` counts earlier examples of an event."""
        fresh = np.ones(len(event_ids), np.bool_)
        held, ring = self._held, self._ring
        for i, (event_id, number) in enumerate(zip(event_ids, n.tolist(), strict=True)):
            # Between the two a byte that no id holds: else "a1" and 2 would be "a" and 12.
            name = f"{event_id}\0{number}".encode()
            identity = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
            if identity in held:
                fresh[i] = False
                continue
            slot = self._count % self.capacity
            # The oldest goes by count, never by time: replicas that read at other times forget the same.
            if self._count >= self.capacity:
                held.discard(int(ring[slot]))
            ring[slot] = identity
            held.add(identity)
            self._count += 1
        return fresh

    def snapshot(self) -> bytes:
        """What is remembered, oldest first: 8 bytes each."""
        slot = self._count % self.capacity
        # In order, so that two rings that began at different slots give the same bytes.
        whole = np.concatenate([self._ring[slot:], self._ring[:slot]]) if self._count > self.capacity else self._ring
        return whole[: min(self._count, self.capacity)].astype("<u8").tobytes()

    def restore(self, state: bytes) -> None:
        """Replace the memory by a ``snapshot``; raises ``StateError`` where it is not one."""
        if len(state) % 8 or len(state) > 8 * self.capacity:
            raise StateError(f"{len(state)} B are no memory of at most {self.capacity} identities of 8 B")
        held = np.frombuffer(state, "<u8")
        self._ring[: len(held)] = held
        self._count = len(held)
        self._held = set(held.tolist())


ARITHMETIC: Final = 3
"""Raise it when a learner computes differently than before: stored models of other numbers are then not continued."""
_SINCE: Final = {"auto": 5, "adaptive_tree": 5, "adaptive_forest": 5, "beside_full": 5}
"""The same of one kind alone, where that is higher: models of other kinds go on."""


def arithmetic_of(spec: LearnerSpec) -> int:
    """The number of a learner: the highest of its own kind and of those of its members."""
    return max([_SINCE.get(spec.kind, ARITHMETIC), *map(arithmetic_of, spec.members)])


@dataclass(frozen=True, slots=True)
class FoldState:
    """A task's model as of a place in the log: what is stored."""

    version: int
    digest: str
    """SHA-256 of ``model``, hexadecimal: equal on every replica."""
    model: bytes
    identities: bytes
    next_offset: int
    """Of the first record of the log that is not in it."""
    quarantines: tuple[Quarantine, ...] = ()
    """Those in the log before that."""


class ExampleFold:
    """The model of one task, and its place in the log.

    Parameters
    ----------
    task : the task's name.
    spec : its learner.
    features : names of the model's inputs.
    timeline : further arguments of `ModelTimeline`.
    """

    def __init__(self, task: str, spec: LearnerSpec, features: Sequence[str], **timeline: Any) -> None:
        self.task, self.spec, self.features = task, spec, tuple(features)
        try:
            self.model = ModelTimeline(task, lambda: build_learner(spec, self.features), **timeline)
        except (ValueError, TypeError) as exc:
            raise TaskError(f"task {task}: [model]: {exc}") from exc
        self.next_offset = 0
        self.repeats = 0
        """Records skipped since the start, because they had been learned."""
        self.quarantines: tuple[Quarantine, ...] = ()
        """Of the task, as far as the log was read."""
        self._identities = Identities()
        self._without: tuple[Quarantine, ...] = ()
        """What is taken back while the model is folded again."""

    @classmethod
    def of(cls, task: TaskSpec, **timeline: Any) -> ExampleFold:
        """The fold of a task file."""
        return cls(task.name, task.model, shape_of(task).features, **timeline)

    def twin(self, **timeline: Any) -> ExampleFold:
        """An empty fold of the same task, at the beginning of the log."""
        return ExampleFold(self.task, self.spec, self.features, **timeline)

    @property
    def fit(self) -> str:
        """Names everything that a stored model must agree in to be continued here, 16 hexadecimal digits."""
        # All that a version depends on besides the examples; a task's name, thresholds and alerts are not in it.
        what = [arithmetic_of(self.spec), CAPACITY, self.spec.model_dump(mode="json"), self.features]
        return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def read(
        self, values: Sequence[bytes | None], offsets: Sequence[int]
    ) -> Iterator[tuple[ExampleBatch, IntVector, Quarantine | None]]:
        """What records at ``offsets`` hold of the task: the examples up to each quarantine of it, and then that."""
        found = decode_example_log(values, {self.task: self.features}).tasks[self.task]
        own = [q for q in find_quarantines(values, offsets) if q.task == self.task and q.offset >= self.next_offset]
        return between(found.batch, np.asarray(offsets, dtype=np.int64)[found.index], own)

    def take(
        self,
        batch: ExampleBatch,
        offsets: IntVector,
        *,
        remember: bool = True,
        mark_every: int | None = None,
        until: int | None = None,
    ) -> list[FoldState]:
        """Learn what of ``batch`` is new.

        Parameters
        ----------
        batch, offsets : examples of this task in log order, and where each was, ``(n,)``.
        remember : see `ModelTimeline.learn`.
        mark_every : return the state at each version that is a multiple of it.
        until : stop at this version.
        """
        marks: list[FoldState] = []
        # What was read before is passed over: a reader gives whole slices, and folds of one log stand in different
        # places.
        at = int(np.searchsorted(offsets, self.next_offset))
        while at < len(batch) and self.model.version != until:
            version = self.model.version
            # So many records hold no more new examples than are missing to the next mark.
            room = len(batch) if mark_every is None else mark_every - version % mark_every
            room = room if until is None else min(room, until - version)
            self._learn(batch.slice(at, at + room), offsets[at : at + room], remember)
            at = min(at + room, len(batch))
            # Also behind repeats, so that they are not asked for again.
            self.next_offset = int(offsets[at - 1]) + 1
            if mark_every is not None and self.model.version > version and self.model.version % mark_every == 0:
                marks.append(self.state())
        return marks

    def _learn(self, piece: ExampleBatch, offsets: IntVector, remember: bool) -> None:
        fresh = self._identities.keep(piece.event_id, piece.n)
        if not fresh.all():
            self.repeats += int((~fresh).sum())
            piece, offsets = piece.where(fresh), offsets[fresh]
        if not self._without:
            self.model.learn(piece, remember=remember)
            return
        kept = ~taken_back(self._without, offsets)
        self.model.learn(piece.where(kept), remember=False)
        # They count, although nothing is learned: a version says where in the log a model stands, on every replica.
        self.model.skip(int(np.count_nonzero(~kept)))

    def again(self, quarantine: Quarantine) -> ExampleFold:
        """A fold that will become this one without what ``quarantine`` takes back; it begins wherever it may.

        Let it take every example up to the quarantine, tell it of each quarantine on the way (`pass_by`), and give it
        to `become`. It may begin from a stored model that `clean` allows.
        """
        twin = self.twin()
        twin._without = (*self.quarantines, quarantine)
        return twin

    def clean(self, next_offset: int) -> bool:
        """Whether a model that has read the log up to ``next_offset`` learned nothing that is taken back."""
        *earlier, last = self._without
        return next_offset <= last.first and all(
            next_offset <= each.first or next_offset > each.offset for each in earlier
        )

    def pass_by(self, quarantine: Quarantine) -> None:
        """Count the record of a quarantine that is allowed for already."""
        self.model.skip(1)
        self.passed(quarantine.offset + 1)

    def become(self, again: ExampleFold, quarantine: Quarantine) -> None:
        """Go on as ``again``, behind ``quarantine``; raises ``StateError`` where it did not read the same log."""
        # Two ways to the same place: the only proof that both have read the same log.
        if again.model.version != self.model.version:
            raise StateError(
                f"task {self.task}: folded again for the quarantine at offset {quarantine.offset}, the model counts "
                f"{again.model.version} records, and {self.model.version} before: the log is not what it was"
            )
        self.model.restore(again.model.snapshot())
        self._identities, self.quarantines = again._identities, (*self.quarantines, quarantine)
        self.pass_by(quarantine)

    def passed(self, offset: int) -> None:
        """Note that the log was read up to ``offset``, whatever was in it."""
        self.next_offset = max(self.next_offset, offset)

    def state(self) -> FoldState:
        """The model now."""
        model = self.model.snapshot()
        identities = self._identities.snapshot()
        return FoldState(model.version, model.digest, model.state, identities, self.next_offset, self.quarantines)

    def restore(self, state: FoldState) -> None:
        """Continue from ``state``; raises ``StateError`` when it does not fit, and then nothing has changed."""
        # A new one: where the state does not fit, nothing here has changed.
        identities = Identities()
        identities.restore(state.identities)
        try:
            self.model.restore(ModelSnapshot(state.version, state.digest, state.model))
        except ValueError as exc:
            raise StateError(f"task {self.task}: the stored model of version {state.version}: {exc}") from exc
        self._identities, self.next_offset, self.quarantines = identities, state.next_offset, state.quarantines
