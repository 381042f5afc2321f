"""Full models on other machines: the wire, the waiting, lanes scored together. No broker is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from weir.online.batch import FloatMatrix, IntVector
from weir.online.task.full_spec import FullSpec, columns
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.kafka.produce.producer import Sent
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_wire import (
    BLOCK_BYTES,
    blocks,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from weir.streams.worker.inference.remote_models import Circuit, RemoteModels, Rows

SPEC = FullSpec(deadline=0.05)
WIDTH = len(columns(SPEC))
FLOATS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(-(2.0**59), 2.0**59, width=32)
)


# -- the wire ----------------------------------------------------------------------------------------------------------


@given(FLOATS)
def test_requests_and_answers_come_back_bit_for_bit(x: np.ndarray) -> None:
    n = len(x)
    ids, users, ts = [f"e{i}" for i in range(n)], [f"u{i % 2}" for i in range(n)], 1.7e9 + np.arange(n) / 7
    request = decode_request(encode_request("w-1", "fraud", ids, users, ts, x))
    assert (request.id, request.task, request.event_id, request.entity_id) == ("w-1", "fraud", ids, users)
    assert (request.ts.tobytes(), request.x.tobytes()) == (ts.tobytes(), x.tobytes())
    answer = decode_answer(encode_answer("w-1", "fraud", x.astype(np.float64)))
    assert (answer.id, answer.rows, answer.values.astype(np.float32).tobytes()) == ("w-1", n, x.tobytes())


@given(st.data())
def test_a_cut_or_changed_record_is_refused_or_read_but_never_anything_else(data: st.DataObject) -> None:
    whole = encode_request("w-1", "fraud", ["e1", "e2"], ["a", "b"], np.full(2, 1.7e9), np.ones((2, 3)))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match="request"):
        decode_request(cut)
    with pytest.raises(ValueError, match="answer"):
        decode_answer(encode_answer("w-1", "fraud", np.ones((2, 3)))[:-1])
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = decode_request(bytes(changed))
    except ValueError:
        return
    assert request.x.shape[0] == len(request.ts) == len(request.event_id) == len(request.entity_id)


@pytest.mark.parametrize(
    ("ts", "x", "says"),
    [
        (np.nan, 1.0, "out of range: ts holds nan"),
        (4.2e9, 1.0, "out of range: ts holds 4.2e"),
        (-1e300, 1.0, "out of range: ts holds -1e"),
        (1.7e9, np.nan, "out of range: x holds"),
        (1.7e9, -np.inf, "out of range: x holds"),
        (1.7e9, 3e38, "out of range: x holds"),
    ],
)
def test_requests_with_times_or_numbers_that_nobody_sends_are_refused(ts: float, x: float, says: str) -> None:
    raw = encode_request("w-1", "fraud", ["e1", "e2"], ["u", ""], np.array([1.7e9, ts]), np.array([[1.0], [x]]))
    with pytest.raises(ValueError, match=says):
        decode_request(raw)


@given(st.integers(0, 20_000), st.integers(1, 300))
def test_blocks_cover_all_rows_and_fit_into_a_record(n: int, width: int) -> None:
    parts = list(blocks(n, width))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(n))
    assert all((part.stop - part.start) * 4 * width <= BLOCK_BYTES for part in parts)


# -- when to wait ------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40))
def test_nobody_waits_after_so_many_misses_in_a_row_until_an_answer_is_in_time(steps: list[float | None]) -> None:
    circuit, row = Circuit(0.25, limit=3), 0
    for age in steps:
        if age is None:
            row += 1
            assert circuit.missed() == (row == 3)
        else:
            was = circuit.waits
            if age <= 0.25:
                row = 0
            assert circuit.answered(age) == (circuit.waits and not was)
        assert circuit.waits == (row < 3)


# -- asking ------------------------------------------------------------------------------------------------------------


class Answers:
    """Stands in for the brokers and for inference workers; answers what it is told to, after so long."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Record]] = []
        self.mute = False
        self.delay_s = 0.0
        self.models: RemoteModels | None = None

    async def send(self, topic: str, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        raise NotImplementedError

    def limit(self, topic: str) -> int:
        return 1 << 20

    async def send_parts(
        self, topic: str, columns: Columns, parts: Sequence[tuple[int, IntVector]]
    ) -> list[asyncio.Future[list[Sent]]]:
        raise NotImplementedError

    async def partition_count(self, topic: str) -> int:
        raise NotImplementedError

    async def send_to(self, topic: str, partition: int, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        assert topic == "requests"
        self.sent += [(partition, record) for record in records]
        loop = asyncio.get_running_loop()
        for record in records if not self.mute else ():
            loop.call_later(self.delay_s, self.answer, record)
        done: asyncio.Future[list[Sent]] = loop.create_future()
        done.set_result([])
        return done

    def answer(self, record: Record) -> None:
        request = decode_request(record.value)
        values = np.ones((len(request.event_id), WIDTH))
        values[:, 0] = request.x[:, 0]
        assert self.models is not None
        self.models.answered(encode_answer(request.id, request.task, values))


def rows(n: int, task: str = "fraud", spec: FullSpec = SPEC, width: int = 3) -> Rows:
    x = np.arange(n * width, dtype=np.float64).reshape(n, width)
    return Rows(task, spec, [f"e{i}" for i in range(n)], ["u"] * n, np.full(n, 1.7e9), x)


class Asker:
    """Everything that asks, over `Answers`."""

    def __init__(self) -> None:
        self.other, self.metrics = Answers(), Metrics()
        loop = asyncio.get_running_loop()
        self.models = RemoteModels(cast(Any, self.other), "requests", "w", self.metrics, loop.time)
        self.other.models = self.models

    async def ask(self, *asks: Rows, partition: int = 1) -> list[FloatMatrix]:
        made, sent = await self.models.ask(partition, asks, 0.0)
        await sent
        return made

    async def took(self, *asks: Rows) -> tuple[float, bool]:
        """How long a batch waited, and whether all its rows are known."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        made = await self.ask(*asks)
        return loop.time() - began, all(bool(values[:, 1].all()) for values in made)

    def missed(self) -> float:
        return self.metrics.counter("weir_full_missed_total", task="fraud").value


async def test_answers_of_several_tasks_and_blocks_come_to_their_rows() -> None:
    asker = Asker()
    many = rows(3_000, width=40)
    first, second = await asker.ask(rows(2), many)
    assert first[:, 0].tolist() == [0.0, 3.0]
    assert second[:, 0].tolist() == many.x[:, 0].tolist()
    assert (first[:, 1] == 1).all()
    assert len(asker.other.sent) == 1 + len(list(blocks(3_000, 40))) > 2
    assert {partition for partition, _ in asker.other.sent} == {1}
    assert asker.missed() == 0


async def test_silence_costs_the_deadline_a_few_times_and_then_nothing() -> None:
    asker = Asker()
    asker.other.mute = True
    took = [await asker.took(rows(2)) for _ in range(6)]
    assert [known for _, known in took] == [False] * 6
    assert all(t >= 0.04 for t, _ in took[:3])
    assert asker.missed() == 3
    assert asker.models.waiting() == {"fraud": 0}
    assert len(asker.other.sent) == 6  # requests go out all the same: the states must not miss them
    # The first answer that comes in time says that it is worth waiting again.
    asker.other.mute = False
    (values,) = await asker.ask(rows(2))
    assert not values.any()  # it did not wait, so the answer is late
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    assert asker.models.waiting() == {"fraud": 1}
    assert (await asker.took(rows(2)))[1]


async def test_late_answers_are_dropped_and_do_not_make_anybody_wait_again() -> None:
    asker = Asker()
    asker.other.mute = True
    made = [(await asker.ask(rows(2)))[0] for _ in range(3)]
    for _, record in asker.other.sent:
        await asyncio.sleep(0.02)
        asker.other.answer(record)
    assert not any(values.any() for values in made)
    assert asker.models.waiting() == {"fraud": 0}
    ages = asker.metrics.histogram("weir_full_answer_seconds", task="fraud")
    assert sum(ages.counts) == 3


async def test_one_task_or_partition_without_answers_does_not_hold_up_the_others() -> None:
    asker = Asker()
    asker.other.mute = True
    for _ in range(4):
        await asker.ask(rows(1))
    asker.other.mute = False
    assert asker.models.waiting() == {"fraud": 0}
    (values,) = await asker.ask(rows(1, "churn"), partition=1)
    assert values[:, 1].all()
    (values,) = await asker.ask(rows(1), partition=0)
    assert values[:, 1].all()


async def test_answers_of_strangers_and_of_another_shape_are_not_taken() -> None:
    asker = Asker()
    asker.models.answered(b"nonsense")
    asker.models.answered(encode_answer("w-99", "fraud", np.ones((1, WIDTH))))
    asker.other.mute = True
    asking = asyncio.ensure_future(asker.ask(rows(2)))
    await asyncio.sleep(0)
    asker.models.answered(encode_answer("w-0", "fraud", np.ones((2, WIDTH + 1))))
    (values,) = await asking
    assert values.shape == (2, WIDTH)
    assert not values.any()


# -- lanes scored together ---------------------------------------------------------------------------------------------


class Lanes:
    """The part of a ``LaneStore`` that scoring uses: one store a lane."""

    def __init__(self, lanes: int) -> None:
        self.of = {("t", p): MemoryFeatureStore() for p in range(lanes)}
        for store in self.of.values():
            store.create("fraud.full", 8, 1, 60.0)
        self.used: Any = None
        self.saved: list[tuple[Any, float]] = []

    def use(self, lane: Any) -> None:
        self.used = lane

    def load(self, table: str, keys: Sequence[str]) -> np.ndarray:
        return self.of[self.used].load(table, keys)

    def last_seen(self, table: str, keys: Sequence[str]) -> np.ndarray:
        return self.of[self.used].last_seen(table, keys)

    def save(self, table: str, keys: Sequence[str], rows: np.ndarray, seen: np.ndarray) -> None:
        self.saved.append((self.used, float(seen.max())))
        self.of[self.used].save(table, keys, rows, seen)


class Counting:
    """A ``FullScorer`` that counts the events of each entity."""

    width, row_bytes, schema = 1, 8, 1

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score(self, table: str, store: Any, keys: Sequence[str], ts: np.ndarray, x: np.ndarray) -> FloatMatrix:
        self.calls.append(len(keys))
        names = list(dict.fromkeys(keys))
        held = store.load(table, names).view(np.int64)[:, 0]
        made = np.empty((len(keys), 1))
        for i, key in enumerate(keys):
            held[names.index(key)] += 1
            made[i] = held[names.index(key)]
        store.save(table, names, np.ascontiguousarray(held[:, None]).view(np.uint8), float(ts.max()))
        assert x.dtype == np.float64
        return made


STEPS = st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from(["a", "b:c", ""]), min_size=1)), max_size=12)


@given(STEPS)
async def test_lanes_scored_together_keep_their_rows_apart(steps: list[tuple[int, list[str]]]) -> None:
    """Whatever comes together: each entity of each lane is counted as if its lane were alone."""
    store, scorer = Lanes(3), Counting()

    pool = Pool(store, {"fraud": scorer}, {"fraud": 60.0}, Metrics(), linger_s=0.0)  # type: ignore[arg-type] # the part of it
    made = [
        pool.score(("t", lane), "fraud", keys, np.full(len(keys), float(i)), np.zeros((len(keys), 2), np.float32))
        for i, (lane, keys) in enumerate(steps)
    ]
    found = [values[:, 0].tolist() for values in await asyncio.gather(*made)]
    counts = dict[tuple[int, str], int]()
    for (lane, keys), values in zip(steps, found, strict=True):
        for key, value in zip(keys, values, strict=True):
            counts[lane, key] = counts.get((lane, key), 0) + 1
            assert value == counts[lane, key]
    assert scorer.calls == ([sum(len(keys) for _, keys in steps)] if steps else [])
    for lane, now in store.saved:
        assert now <= max(i for i, (p, _) in enumerate(steps) if ("t", p) == lane)
