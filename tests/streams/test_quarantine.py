"""Examples taken back: the model is the one that never learned them, on every replica, from wherever it begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from tests.streams.test_following import KINDS, SPECS, examples, names_of
from weir.online.batch import ExampleBatch
from weir.online.codec.encode import encode_examples, encode_model
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.wire import ExampleQuarantine
from weir.online.errors import StateError
from weir.online.learners.factory import build_learner
from weir.online.learners.online_model import OnlineModel
from weir.online.stages.quarantine import Quarantine, between, find_quarantines
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold, FoldState
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.model_replicas.refold import fold_again
from weir.streams.records import Record


class Log:
    """An ``examples`` topic of one task in memory, which is its own reader."""

    def __init__(self, kind: str) -> None:
        self.kind, self.values = kind, list[bytes]()

    def add(self, batch: ExampleBatch) -> None:
        self.values += encode_examples(batch, names_of(self.kind), "fraud")

    def take_back(self, *edges: int, task: str = "fraud") -> None:
        self.values.append(encode_model(ExampleQuarantine(task=task, quarantine=edges, by="me", made_at=1.7e9)))

    async def __aenter__(self) -> Log:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self, _: int, start: int, stop: int) -> AsyncIterator[Slice]:
        for at in range(start, stop, 37):
            end = min(at + 37, stop)
            yield Slice(range(at, end), [Record(b"fraud", value, 1.7e9) for value in self.values[at:end]])

    def reader(self) -> RangeReader:
        return cast("RangeReader", self)


class Stored:
    """Stored models in memory."""

    def __init__(self, states: Sequence[FoldState] = ()) -> None:
        self.states = list(states)

    async def newest(self, fold: ExampleFold, *, usable: Any) -> FoldState | None:
        fitting = [state for state in self.states if usable(state.next_offset)]
        return max(fitting, key=lambda state: state.version, default=None)

    async def resume(self, fold: ExampleFold, *, usable: Any) -> None:
        if (state := await self.newest(fold, usable=usable)) is not None:
            fold.restore(state)

    def snapshots(self) -> ModelSnapshots:
        return cast("ModelSnapshots", self)


def follow(log: Log, *, step: int = 50, stored: Stored | None = None, start: FoldState | None = None) -> ExampleFold:
    """The fold of the whole log, read ``step`` records at a time."""
    fold = ExampleFold("fraud", SPECS[log.kind], names_of(log.kind))
    if start is not None:
        fold.restore(start)

    async def run() -> None:
        for at in range(fold.next_offset, len(log.values), step):
            values, offsets = log.values[at : at + step], np.arange(at, min(at + step, len(log.values)))
            found = decode_example_log(values, {"fraud": fold.features}).tasks["fraud"]
            own = [q for q in find_quarantines(values, offsets.tolist()) if q.task == "fraud"]
            for batch, places, quarantine in between(found.batch, offsets[found.index], own):
                fold.take(batch, places)
                if quarantine is not None:
                    await fold_again(fold, quarantine, log.reader, stored.snapshots() if stored else None)
            if stored is not None:
                stored.states.append(fold.state())

    asyncio.run(run())
    return fold


def learned(kind: str, *batches: ExampleBatch) -> str:
    model = OnlineModel(build_learner(SPECS[kind], names_of(kind)))
    for batch in batches:
        model.learn(batch)
    return model.snapshot().digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_one_that_never_learned_them(kind: str) -> None:
    log, batch = Log(kind), examples(200)
    log.add(batch.slice(0, 150))
    log.take_back(20, 40, 60, 61)
    log.add(batch.slice(150, 200))
    fold = follow(log)
    kept = np.array([i for i in range(200) if not (20 <= i < 40 or i == 60)])
    assert fold.model.snapshot().digest == learned(kind, batch.take(kept))
    assert fold.model.version == 201, "every record counts, the order too"


@pytest.mark.parametrize("step", [1, 13, 1000])
def test_replicas_agree_whatever_they_read_at_once_and_begin_from(step: int) -> None:
    log, batch = Log("stack"), examples(300)
    log.add(batch.slice(0, 100))
    log.take_back(90, 95)
    log.add(batch.slice(100, 200))
    log.take_back(30, 33, 150, 160)
    log.add(batch.slice(200, 300))
    kept = np.array([i for i in range(300) if not (90 <= i < 95 or 30 <= i < 33)])
    offsets = np.arange(300) + (np.arange(300) >= 100) + (np.arange(300) >= 200)
    kept = np.array([i for i in kept.tolist() if not 150 <= offsets[i] < 160])
    wanted = learned("stack", batch.take(kept))
    stored = Stored()
    fold = follow(log, step=step, stored=stored)
    assert fold.model.snapshot().digest == wanted
    for state in stored.states[:: max(1, len(stored.states) // 7)]:
        again = follow(log, step=29, stored=Stored(stored.states), start=state)
        assert again.model.snapshot().digest == wanted
        assert again.model.version == fold.model.version == 302


def test_a_model_is_folded_again_from_one_that_learned_none_of_them() -> None:
    log, batch, stored = Log("logistic"), examples(300), Stored()
    log.add(batch.slice(0, 200))
    log.take_back(150, 151)
    log.add(batch.slice(200, 300))
    begun: list[int] = []

    class Watched(Stored):
        async def newest(self, fold: ExampleFold, *, usable: Any) -> FoldState | None:
            state = await super().newest(fold, usable=usable)
            begun.append(-1 if state is None else state.version)
            return state

    stored = Watched()
    fold = follow(log, step=100, stored=stored)
    assert begun == [100], "the stored version 200 has learned what is taken back"
    assert fold.model.snapshot().digest == learned("logistic", batch.slice(0, 150), batch.slice(151, 300))


def test_a_repeat_of_what_was_taken_back_stays_a_repeat() -> None:
    log, batch = Log("logistic"), examples(60)
    log.add(batch.slice(0, 50))
    log.take_back(10, 20)
    log.add(batch.slice(10, 20))
    log.add(batch.slice(50, 60))
    fold = follow(log)
    assert fold.model.snapshot().digest == learned("logistic", batch.slice(0, 10), batch.slice(20, 60))
    assert fold.repeats == 10


def test_what_was_restored_knows_what_was_taken_back_before() -> None:
    log, batch, stored = Log("logistic"), examples(120), Stored()
    log.add(batch.slice(0, 50))
    log.take_back(40, 45)
    first = follow(log, step=10, stored=stored).state()
    assert first.quarantines == (Quarantine("fraud", 50, ((40, 45),)),)
    log.add(batch.slice(50, 100))
    log.take_back(20, 21)
    fold = follow(log, start=first)
    kept = np.array([i for i in range(100) if i != 20 and not 40 <= i < 45])
    assert fold.model.snapshot().digest == learned("logistic", batch.take(kept))


def test_another_log_is_refused() -> None:
    log = Log("logistic")
    log.add(examples(50))
    fold = follow(log)
    del log.values[30:]
    with pytest.raises(StateError, match="the model counts 30 records, and 50 before: the log is not what it was"):
        asyncio.run(fold_again(fold, Quarantine("fraud", 50, ((1, 2),)), log.reader, None))
    assert fold.model.version == 50, "nothing has changed"


@pytest.mark.parametrize("edges", [(5, 4), (5, 5), (1, 2, 2, 3), (1, 2, 3), (3, 60), (-1, 2)])
def test_an_order_that_makes_no_sense_is_none(edges: tuple[int, ...]) -> None:
    good = encode_model(ExampleQuarantine(task="fraud", quarantine=(1, 2), by="me", made_at=1.7e9))
    bad = good.replace(b"[1,2]", str(list(edges)).replace(" ", "").encode())
    assert bad != good
    assert find_quarantines([bad], [59]) == []
    assert len(find_quarantines([good], [59])) == 1


def test_an_order_for_another_task_changes_nothing() -> None:
    log, batch = Log("logistic"), examples(50)
    log.add(batch)
    log.take_back(1, 20, task="churn")
    assert follow(log).model.snapshot().digest == learned("logistic", batch)


def test_corrections_are_taken_back_by_themselves() -> None:
    log, batch = Log("logistic"), examples(50)
    correction = replace(batch.slice(3, 4), n=np.ones(1, np.int64), y=~batch.y[3:4], correction=np.ones(1, np.bool_))
    log.add(batch)
    log.add(correction)
    log.take_back(50, 51)
    assert follow(log).model.snapshot().digest == learned("logistic", batch)
