"""What every adapter of the ``FeatureStore`` port does. A new adapter adds its name to ``ADAPTERS``."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.integration.kafka_broker import unavailable
from tests.integration.redis_server import NoRedis, find_redis
from weir.online.batch import FloatVector
from weir.online.errors import StateError
from weir.online.features.store import SPARE, FeatureStore
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore

WIDTH, SCHEMA, TTL = 8, 7, 800.0


class Snapshots(FeatureStore, Protocol):
    """A store that an embedded host can checkpoint."""

    def snapshot(self) -> bytes: ...

    def restore(self, state: bytes) -> None: ...


Make = Callable[[], FeatureStore]


class LaneOfRedis:
    """One lane of a `LaneStore` behind the synchronous port: it fetches before each call, and writes behind it.

    ``forgetful`` opens the lane anew for every call, so that every row comes from Redis.
    """

    def __init__(self, runner: asyncio.Runner, link: RedisClient, prefix: str, forgetful: bool) -> None:
        self._runner, self._lanes, self._forgetful = runner, LaneStore(link, prefix=prefix), forgetful
        self._lane, self._opened = ("user-events", 0), False
        self._next: int | None = None

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        self._lanes.create(table, row_bytes, schema, kept_s)

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        self._runner.run(self._fetch(table, keys))
        return self._lanes.load(table, keys)

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        self._runner.run(self._fetch(table, keys))
        return self._lanes.last_seen(table, keys)

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        self._runner.run(self._fetch(table, keys))
        self._lanes.save(table, keys, rows, seen)
        self._runner.run(self._flush())

    async def _fetch(self, table: str, keys: Sequence[str]) -> None:
        if self._forgetful or not self._opened:
            await self._lanes.open(self._lane)
            self._opened = True
        await self._lanes.prefetch(self._lane, {table: keys})
        self._lanes.use(self._lane)

    async def _flush(self) -> None:
        after = (self._next or 0) + 1
        writes = self._lanes.end_step(self._lane, after - 1)
        await self._lanes.flush(self._lane, [writes], self._lanes.record(self._lane, after), self._next)
        self._next = after


@pytest.fixture(scope="module")
def redis_lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], FeatureStore]]:
    try:
        server = find_redis(tmp_path_factory.mktemp("redis"))
    except NoRedis as reason:
        unavailable(str(reason))
    names = itertools.count()
    with asyncio.Runner() as runner:
        link = RedisClient(server.settings())
        runner.run(link.start())
        yield lambda forgetful: LaneOfRedis(runner, link, f"t{os.getpid()}-{next(names)}", forgetful)
        runner.run(link.stop())
    server.stop()


ADAPTERS = ["memory", *(pytest.param(n, marks=pytest.mark.integration) for n in ("redis", "redis, nothing cached"))]
WITH_SNAPSHOTS: dict[str, Callable[[], Snapshots]] = {"memory": MemoryFeatureStore}


@pytest.fixture(params=ADAPTERS)
def make_store(request: pytest.FixtureRequest) -> Make:
    if request.param == "memory":
        return MemoryFeatureStore
    lanes: Callable[[bool], FeatureStore] = request.getfixturevalue("redis_lanes")
    return lambda: lanes(request.param != "redis")


@pytest.fixture
def store(make_store: Make) -> FeatureStore:
    made = make_store()
    made.create("user", WIDTH, SCHEMA, TTL)
    return made


def rows(*fill: int) -> NDArray[np.uint8]:
    return np.repeat(np.array(fill, dtype=np.uint8)[:, None], WIDTH, axis=1)


def values(store: FeatureStore, *keys: str, table: str = "user") -> list[int]:
    loaded = store.load(table, list(keys))
    return [int(first) for first in loaded[:, 0]]


def test_unseen_keys_are_zeros_of_the_declared_width(store: FeatureStore) -> None:
    loaded = store.load("user", ["a", "b"])
    assert loaded.shape == (2, WIDTH)
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    assert not loaded.any()


def test_what_is_saved_is_loaded_in_any_order_and_beside_unseen_keys(store: FeatureStore) -> None:
    store.save("user", ["a", "b"], rows(1, 2), 0.0)
    assert values(store, "b", "new", "a") == [2, 0, 1]


def test_no_keys_is_no_rows(store: FeatureStore) -> None:
    store.save("user", [], np.zeros((0, WIDTH), np.uint8), 0.0)
    assert store.load("user", []).shape == (0, WIDTH)


def test_loaded_rows_are_the_callers_own(store: FeatureStore) -> None:
    store.save("user", ["a"], rows(1), 0.0)
    loaded = store.load("user", ["a"])
    loaded[:] = 9
    assert values(store, "a") == [1]


def test_saved_rows_stay_the_callers_own(store: FeatureStore) -> None:
    mine = rows(1)
    store.save("user", ["a"], mine, 0.0)
    mine[:] = 9
    assert values(store, "a") == [1]


def test_rows_can_be_viewed_as_numbers(store: FeatureStore) -> None:
    """The engine views rows as float64 and writes through the view."""
    loaded = store.load("user", ["a"])
    loaded.view(np.float64)[0, 0] = 2.5
    store.save("user", ["a"], loaded, 0.0)
    assert store.load("user", ["a"]).view(np.float64).tolist() == [[2.5]]


def test_a_key_named_twice_loads_twice(store: FeatureStore) -> None:
    store.save("user", ["a"], rows(3), 0.0)
    assert values(store, "a", "a") == [3, 3]


def test_of_a_key_saved_twice_in_one_call_the_last_row_counts(store: FeatureStore) -> None:
    store.save("user", ["a", "b", "a"], rows(1, 2, 3), 0.0)
    assert values(store, "a", "b") == [3, 2]


def test_tables_are_apart(store: FeatureStore) -> None:
    store.create("device", WIDTH, SCHEMA, TTL)
    store.save("user", ["a"], rows(1), 0.0)
    assert values(store, "a", table="device") == [0]


def test_declaring_a_table_again_alike_keeps_its_rows(store: FeatureStore) -> None:
    store.save("user", ["a"], rows(1), 0.0)
    store.create("user", WIDTH, SCHEMA, TTL)
    assert values(store, "a") == [1]


@pytest.mark.parametrize(("width", "schema"), [(WIDTH * 2, SCHEMA), (WIDTH, SCHEMA + 1)])
def test_a_table_of_another_shape_or_meaning_is_refused(store: FeatureStore, width: int, schema: int) -> None:
    with pytest.raises(StateError, match=r"user.*8 B.*now wants"):
        store.create("user", width, schema, TTL)


def test_keys_may_be_any_text(store: FeatureStore) -> None:
    keys = ["", "a:b", "ä€😀", "x" * 64, "a b"]
    store.save("user", keys, rows(1, 2, 3, 4, 5), 0.0)
    assert values(store, *keys) == [1, 2, 3, 4, 5]


def test_thousands_of_keys(store: FeatureStore) -> None:
    """More than any first allocation holds, in several calls."""
    keys = [f"k{i}" for i in range(5000)]
    fill = (np.arange(5000) % 251 + 1).astype(np.uint8)
    for start in range(0, 5000, 700):
        store.save("user", keys[start : start + 700], rows(*fill[start : start + 700].tolist()), 0.0)
    assert values(store, *keys) == fill.tolist()


def test_each_row_says_when_it_last_changed(store: FeatureStore) -> None:
    store.save("user", ["a", "b"], rows(1, 2), np.array([1000.0, 1002.5]))
    store.save("user", ["c"], rows(3), 1001.0)
    assert store.last_seen("user", ["c", "nobody", "a", "b"]).tolist() == [1001.0, -np.inf, 1000.0, 1002.5]


def test_a_late_change_does_not_make_a_row_older(store: FeatureStore) -> None:
    store.save("user", ["a", "b"], rows(1, 1), 1000.0)
    store.save("user", ["b", "a"], rows(2, 3), np.array([900.0, 1001.0]))
    assert store.last_seen("user", ["a", "b"]).tolist() == [1001.0, 1000.0]
    assert values(store, "a", "b") == [3, 2]


def test_a_row_is_there_for_an_eighth_longer_than_anything_may_find_it(store: FeatureStore) -> None:
    store.save("user", ["a"], rows(1), 1000.0)
    for step in range(1, 12):
        store.save("user", ["other"], rows(2), 1000.0 + SPARE * TTL * step / 11)
    assert values(store, "a") == [1]
    assert store.last_seen("user", ["a"]).tolist() == [1000.0]


def test_one_that_is_read_alone_is_still_not_seen(store: FeatureStore) -> None:
    assert values(store, "a") == [0]
    assert store.last_seen("user", ["a"]).tolist() == [-np.inf]


def test_memory_frees_what_nothing_can_find_any_more_and_gives_its_place_clean_to_the_next() -> None:
    store = MemoryFeatureStore()
    store.create("user", WIDTH, SCHEMA, TTL)
    keys = [f"old{i}" for i in range(50)]
    store.save("user", keys, rows(*[9] * 50), 1000.0)
    store.save("user", ["a", "b", "c"], rows(1, 1, 1), 1000.0 + 2 * TTL)
    assert store.count("user") == 3
    new = [f"new{i}" for i in range(50)]
    assert values(store, *new) == [0] * 50
    store.save("user", new, rows(*[0] * 50), 1.0)
    assert set(store.last_seen("user", new).tolist()) == {1.0}


def test_one_clock_that_is_ahead_frees_nobody_else_and_holds_nothing_up() -> None:
    store = MemoryFeatureStore()
    store.create("user", WIDTH, SCHEMA, TTL)
    keys = [f"old{i}" for i in range(50)]
    store.save("user", keys, rows(*[9] * 50), 1000.0)
    for years in (1, 75, 75):
        store.save("user", ["ahead"], rows(1), 1000.0 + years * 3e7)
        store.save("user", ["a", "b", "c"], rows(1, 1, 1), 1001.0)
        assert values(store, *keys) == [9] * 50
    for key in ("a", "b", "c"):
        store.save("user", [key], rows(1), 1000.0 + 2 * TTL)
    store.save("user", ["ahead"], rows(1), 1000.0 + 76 * 3e7)
    assert store.count("user") == 4


class TestSnapshots:
    """Of the adapters that live in a host's own checkpoint."""

    @pytest.fixture(params=list(WITH_SNAPSHOTS.values()), ids=list(WITH_SNAPSHOTS))
    def fresh(self, request: pytest.FixtureRequest) -> Callable[[], Snapshots]:
        def make() -> Snapshots:
            made: Snapshots = request.param()
            made.create("user", WIDTH, SCHEMA, TTL)
            return made

        return make

    def test_restore_gives_equal_rows_and_equal_bytes(self, fresh: Callable[[], Snapshots]) -> None:
        one, two = fresh(), fresh()
        one.save("user", ["b", "a"], rows(2, 1), 5.0)
        two.restore(one.snapshot())
        assert values(two, "a", "b") == [1, 2]
        assert two.snapshot() == one.snapshot()

    def test_equal_contents_give_equal_bytes_whatever_the_order_of_keys(self, fresh: Callable[[], Snapshots]) -> None:
        one, two = fresh(), fresh()
        one.save("user", ["a", "b"], rows(1, 2), 5.0)
        two.save("user", ["b", "a"], rows(2, 1), 5.0)
        assert one.snapshot() == two.snapshot()

    def test_a_restored_store_goes_on_like_the_first(self, fresh: Callable[[], Snapshots]) -> None:
        one, two = fresh(), fresh()
        one.save("user", [f"k{i}" for i in range(40)], rows(*range(1, 41)), 1000.0)
        two.restore(one.snapshot())
        for each in (one, two):
            each.save("user", ["k3", "x", "y"], rows(7, 8, 8), 1000.0 + 1.5 * TTL)  # which frees what nothing changed
            each.save("user", ["k4"], rows(9), 1000.0 + 1.6 * TTL)
        assert one.snapshot() == two.snapshot()
        assert values(two, "k3", "k4", "k5", "x") == [7, 9, 0, 8]

    def test_restore_replaces_what_was_there(self, fresh: Callable[[], Snapshots]) -> None:
        empty, full = fresh(), fresh()
        full.create("extra", WIDTH, SCHEMA, TTL)
        full.save("user", ["a"], rows(1), 5.0)
        full.save("extra", ["a"], rows(1), 5.0)
        full.restore(empty.snapshot())
        assert values(full, "a") == [0]
        assert values(full, "a", table="extra") == [0]

    def test_an_empty_store_and_a_table_without_columns_survive(self, fresh: Callable[[], Snapshots]) -> None:
        one, two = fresh(), fresh()
        one.create("bare", 0, 0, TTL)
        one.save("bare", ["a"], np.zeros((1, 0), np.uint8), 1.0)
        two.restore(one.snapshot())
        assert two.snapshot() == one.snapshot()

    def test_wide_rows_that_are_mostly_zeros_take_little_and_come_back(self, fresh: Callable[[], Snapshots]) -> None:
        one, two = fresh(), fresh()
        wide = np.zeros((30, 800), np.uint8)
        wide[np.arange(30), 25 * np.arange(30)] = 7
        keys = [f"k{i}" for i in range(30)]
        for each in (one, two):
            each.create("wide", 800, SCHEMA, TTL)
        one.save("wide", keys, wide, 1.0)
        assert len(one.snapshot()) < 3_000
        two.restore(one.snapshot())
        assert (two.load("wide", keys) == wide).all()

    def test_a_snapshot_of_another_shape_is_refused(self, fresh: Callable[[], Snapshots]) -> None:
        other = MemoryFeatureStore()
        other.create("user", WIDTH * 2, SCHEMA, TTL)
        told = f"holds rows of {WIDTH * 2} B, .* the task now wants {WIDTH} B, .*aggregates changed, or another version"
        with pytest.raises(StateError, match=told):
            fresh().restore(other.snapshot())

    def test_rows_as_a_version_before_stored_them_are_read(self, fresh: Callable[[], Snapshots]) -> None:
        times = np.array([5.0, 6.0]).tobytes()
        table = [WIDTH, SCHEMA, TTL, ["a", "b"], rows(1, 2).tobytes(), times, 6.0, 0.0]
        one = fresh()
        one.restore(msgspec.msgpack.encode({"user": table}))
        assert values(one, "b", "a") == [2, 1]
        ((_, held),) = msgspec.msgpack.decode(one.snapshot()).items()
        assert held[:4] + held[5:] == table[:4] + table[5:]
        assert isinstance(held[4], list), "of another type, so that a version before refuses it rather than misreads"

    def test_rows_that_are_damaged_are_refused(self, fresh: Callable[[], Snapshots]) -> None:
        table = [WIDTH, SCHEMA, TTL, ["a"], [b"\xff", np.array([1]).tobytes()], bytes(8), 6.0, 0.0]
        with pytest.raises(StateError, match="are no row of 8 B"):
            fresh().restore(msgspec.msgpack.encode({"user": table}))

    @pytest.mark.parametrize("damage", [b"", b"\xc1", b"no snapshot"])
    def test_what_is_no_snapshot_is_refused(self, fresh: Callable[[], Snapshots], damage: bytes) -> None:
        with pytest.raises(StateError):
            fresh().restore(damage)


steps = st.lists(
    st.tuples(
        st.sampled_from(["load", "save"]),
        st.lists(st.sampled_from([f"k{i}" for i in range(6)]), max_size=4, unique=True),
        st.sampled_from([0.0, 10.0, TTL / 8, TTL / 2, TTL * 0.99, TTL * 1.2, -30.0]),
        st.integers(1, 255),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_a_store_is_a_dict_that_forgets(make_store: Make, steps: list[tuple[str, list[str], float, int]]) -> None:
    """Exact for as long as rows are kept; later the adapter may choose when to free memory."""
    store = make_store()
    store.create("user", WIDTH, SCHEMA, TTL)
    model: dict[str, tuple[int, float]] = {}
    now = newest = 10_000.0
    for step, keys, gap, fill in steps:
        now += gap
        if step == "save":
            store.save("user", keys, rows(*[fill] * len(keys)), now)
            newest = max(newest, now)
            for key in keys:
                model[key] = (fill, max(now, model.get(key, (0, 0.0))[1]))
            continue
        for key, got in zip(keys, values(store, *keys), strict=True):
            held, updated = model.get(key, (0, newest))
            age = newest - updated
            if age <= TTL * SPARE:
                assert got == held
            else:
                assert got in (held, 0)
                if got == 0:
                    model.pop(key, None)
