from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.digests import pair_digests
from weir.online.errors import StateError
from weir.online.stages.dedupe import MOST_BYTES, Deduper, bytes_for, old_ids
from weir.online.stages.digest_table import ROW_BYTES, DigestTable

T0, WINDOW_S, LATENESS_S = 1.7e9, 30.0, 20.0
Row = tuple[int, int, float]
"""Number of an id, of its entity, and its time behind the newest, in seconds."""

events = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1), st.floats(0.0, LATENESS_S)), max_size=60)
steps = st.lists(st.floats(0.0, 15.0), min_size=60, max_size=60)
cuts = st.lists(st.integers(0, 60), max_size=5)


class Stream:
    """Events with the floors that an intake gives, which lets in nothing that is later than ``LATENESS_S``."""

    def __init__(self, rows: list[Row], moves: list[float]) -> None:
        self.marks = T0 + np.cumsum(moves[: len(rows)] or [0.0])
        self.ids = [f"e{i}" for i, _, _ in rows]
        self.entities = [f"u{u}" for _, u, _ in rows]
        self.ts = self.marks[: len(rows)] - np.array([behind for *_, behind in rows])

    def keep(self, dedupe: Deduper, start: int = 0, stop: int | None = None, purge: bool = True) -> list[bool]:
        """One call; the floor is that of the watermark before it."""
        part = slice(start, stop)
        before = self.marks[start - 1] if start and purge else -np.inf
        kept = dedupe.keep(self.ids[part], self.ts[part], self.entities[part], before - LATENESS_S - WINDOW_S)
        return list(kept.tolist())

    def reference(self) -> list[bool]:
        """A plain dict that never forgets."""
        held: dict[tuple[str, str], float] = {}
        verdicts = []
        for name, entity, ts in zip(self.ids, self.entities, np.floor(self.ts).tolist(), strict=True):
            seen = held.get((entity, name))
            verdicts.append(seen is None or abs(ts - seen) > WINDOW_S)
            if verdicts[-1]:
                held[entity, name] = ts
        return verdicts


@given(events, steps, cuts)
@settings(max_examples=120, deadline=None)
def test_agrees_with_a_dict_that_never_forgets_whatever_the_batch_cuts_and_whenever_it_forgets(
    rows: list[Row], moves: list[float], at: list[int]
) -> None:
    stream, dedupe = Stream(rows, moves), Deduper(WINDOW_S)
    edges = [0, *sorted(min(cut, len(rows)) for cut in at), len(rows)]
    kept = [verdict for a, b in pairwise(edges) for verdict in stream.keep(dedupe, a, b)]
    assert kept == stream.reference()
    assert stream.keep(Deduper(WINDOW_S)) == kept
    floor = float(stream.marks[-1]) - LATENESS_S - WINDOW_S
    whole = Deduper(WINDOW_S)
    stream.keep(whole)
    assert dedupe.snapshot(floor) == whole.snapshot(floor)


@given(events, steps, cuts, st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_memory_rebuilt_from_its_journal_or_a_snapshot_goes_on_the_same(
    rows: list[Row], moves: list[float], at: list[int], whole: bool
) -> None:
    stream, dedupe = Stream(rows, moves), Deduper(WINDOW_S, key=bytes(16), journal=True)
    edges = [0, *sorted(min(cut, len(rows)) for cut in at), len(rows)]
    middle, stored = edges[len(edges) // 2], []
    for a, b in pairwise(edges[: len(edges) // 2 + 1]):
        stream.keep(dedupe, a, b)
        stored.append(dedupe.take_journal())
    other = Deduper(WINDOW_S, key=bytes(16), journal=True)
    if whole:
        other.restore(dedupe.snapshot())
    else:
        other.rebuild(stored)
    assert len(other.take_journal()) == 0
    floor = float(stream.marks[middle - 1]) - LATENESS_S - WINDOW_S if middle else -np.inf
    assert other.snapshot(floor) == dedupe.snapshot(floor)  # what is older goes when its slot is wanted
    assert stream.keep(other, middle) == stream.keep(dedupe, middle)
    assert other.take_journal().tolist() == dedupe.take_journal().tolist()


def test_an_id_of_one_entity_does_not_pre_empt_that_of_another() -> None:
    dedupe, at = Deduper(), np.array([T0])
    assert dedupe.keep(["order-1"], at, ["mallory"]).all()
    assert dedupe.keep(["order-1"], at, ["alice"]).all()
    assert not dedupe.keep(["order-1"], at, ["alice"]).any()
    assert dedupe.keep(["1order-"], at, ["alice"]).all()


def test_no_two_pairs_of_texts_are_the_same_bytes() -> None:
    entities, ids = ["ab", "a", "", "a\0", "a", "é", "x" * 300], ["c", "bc", "abc", "", "\0", "é", "y"]
    found = pair_digests(entities, ids)
    assert len({tuple(row) for row in found.tolist()}) == len(ids)
    assert found.tolist() != pair_digests(entities, ids, np.array([1, 2], np.uint64)).tolist()


def test_digests_are_siphash() -> None:
    key = bytes(range(16))
    entities, ids = ["", "user-1", "ü" * 9, "x" * 40], ["e", "event-42", "id", ""]
    found = pair_digests(entities, ids, np.frombuffer(key, "<u8"))
    for row, entity, name in zip(found, entities, ids, strict=True):
        a, b = entity.encode(), name.encode()
        message = len(a).to_bytes(4, "little") + len(b).to_bytes(4, "little") + _padded(a) + _padded(b)
        assert row.astype("<u8").tobytes() == siphash128(key, message)


def _padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 8)


def siphash128(key: bytes, message: bytes) -> bytes:
    """SipHash-2-4 with 128 bits, written from the paper."""
    mask = 2**64 - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turn(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    def rounds(n: int) -> None:
        for _ in range(n):
            for a, b, by in ((0, 1, 13), (2, 3, 16)):
                v[a] = v[a] + v[b] & mask
                v[b] = turn(v[b], by) ^ v[a]
            v[0] = turn(v[0], 32)
            for a, b, by in ((2, 1, 17), (0, 3, 21)):
                v[a] = v[a] + v[b] & mask
                v[b] = turn(v[b], by) ^ v[a]
            v[2] = turn(v[2], 32)

    tail = message[len(message) // 8 * 8 :]
    words = [message[i : i + 8] for i in range(0, len(message) // 8 * 8, 8)]
    for word in [*words, tail + bytes(7 - len(tail)) + bytes([len(message) % 256])]:
        v[3] ^= int.from_bytes(word, "little")
        rounds(2)
        v[0] ^= int.from_bytes(word, "little")
    halves = []
    for last in (v[2] ^ 0xEE, None):
        if last is None:
            v[1] ^= 0xDD
        else:
            v[2] = last
        rounds(4)
        halves.append((v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little"))
    return b"".join(halves)


def test_the_reference_gives_the_published_vectors() -> None:
    key = bytes(range(16))
    assert siphash128(key, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash128(key, b"\0").hex() == "da87c1d86b99af44347659119b22fc45"


@pytest.mark.parametrize("batch", [1, 100, 5_000])
def test_a_repeat_is_caught_at_every_size_while_the_table_grows(batch: int) -> None:
    dedupe, count = Deduper(np.inf), 120_000 if batch > 1 else 3_000
    for at in range(0, count, batch):
        ids = [f"e{i}" for i in range(at, at + batch)]
        assert dedupe.keep(ids, np.full(batch, T0)).all()
        again = [f"e{i}" for i in range(at // 2, at // 2 + batch)]
        assert not dedupe.keep(again, np.full(batch, T0)).any()
        assert len(dedupe) == at + batch
        assert dedupe.nbytes < 62 * len(dedupe) + 10_000 + 62 * batch
    assert not dedupe.keep([f"e{i}" for i in range(count)], np.full(count, T0)).any()


def test_an_id_costs_24_to_31_bytes() -> None:
    dedupe = Deduper(np.inf)
    for at in range(0, 1_000_000, 10_000):
        dedupe.keep([f"e{i}" for i in range(at, at + 10_000)], np.full(10_000, T0))
    for _ in range(200):  # whatever has to move does so with the next calls
        dedupe.keep([], np.empty(0))
    assert dedupe.nbytes <= 31 * len(dedupe)
    restored = Deduper(np.inf)
    restored.restore(dedupe.snapshot())
    assert restored.nbytes <= 31 * 1_000_000


def test_where_memory_is_short_the_oldest_go_and_it_says_so() -> None:
    dedupe = Deduper(np.inf, most_bytes=bytes_for(10_000))
    ids, ts = [f"e{i}" for i in range(100_000)], T0 + np.arange(100_000, dtype=np.float64)
    assert dedupe.forced == -np.inf
    for at in range(0, 100_000, 250):
        assert dedupe.keep(ids[at : at + 250], ts[at : at + 250]).all()
        again = slice(max(at - 9_000, 0), at + 250)
        assert not dedupe.keep(ids[again], ts[again]).any()
        assert dedupe.nbytes <= 3 * bytes_for(10_000)
    assert T0 + 80_000 < dedupe.forced < T0 + 91_000


def test_a_batch_larger_than_its_memory_is_judged_all_the_same() -> None:
    dedupe = Deduper(np.inf, most_bytes=64 * ROW_BYTES)
    ids = [f"e{i}" for i in range(1_000)]
    assert dedupe.keep(ids, T0 + np.arange(1_000.0)).all()
    assert not dedupe.keep(ids[-20:], T0 + np.arange(980.0, 1_000.0)).any()
    assert dedupe.keep(ids[:20], np.full(20, T0)).all()  # of a time that had to be forgotten
    assert dedupe.keep([f"s{i}" for i in range(1_000)], np.full(1_000, T0 + 5_000)).all()


def test_what_is_forgotten_makes_room() -> None:
    dedupe = Deduper(60.0)
    for minute in range(300):
        ids, ts = [f"{minute}-{i}" for i in range(500)], T0 + 60.0 * minute + np.zeros(500)
        assert dedupe.keep(ids, ts, floor=T0 + 60.0 * (minute - 2)).all()
    assert dedupe.nbytes < 500 * 4 * 31 * 2
    assert dedupe.forced == -np.inf


def test_an_absurd_time_does_not_empty_the_memory() -> None:
    dedupe = Deduper(60.0)
    assert dedupe.keep(["a", "b", "c", "a"], np.array([0.0, 4e9, 4.1e9, 0.0])).tolist() == [True, True, True, False]
    assert dedupe.keep(["d", "d"], np.array([-1e12, 1e300])).tolist() == [True, True]


def test_a_step_of_a_large_table_is_never_long() -> None:
    """No call looks at all of it: what has to move moves bit by bit."""
    table = DigestTable(MOST_BYTES)
    rows = np.random.default_rng(0).integers(1, 2**32, (400_000, 5), dtype=np.uint32)
    table.reserve(300_000)
    table.load(rows[:300_000], 0)
    sizes = set()
    for at in range(300_000, 400_000, 500):
        assert table.keep(rows[at : at + 500], 0, 0).all()
        sizes.add(table.nbytes)
        assert not table.keep(rows[at - 250_000 : at - 249_500], 2**32, 0).any()
    assert max(sizes) > 20 * 800_000  # both tables were there for a while
    assert not table.keep(rows, 2**32, 0).any()


OLD = msgspec.msgpack.encode((7, ["a", "b"], np.array([T0, T0 + 1]).tobytes()))


def test_ids_of_a_version_that_wrote_them_as_text_are_known_whoever_sends_them() -> None:
    dedupe = Deduper(60.0, key=bytes(range(16)), journal=True)
    dedupe.rebuild([], [old_ids(OLD)])
    verdicts = dedupe.keep(["a", "c", "b", "c"], T0 + np.zeros(4), ["u1", "u1", "u2", "u1"])
    assert verdicts.tolist() == [False, True, False, False]
    restored = Deduper(60.0, key=bytes(range(16)))
    restored.restore(dedupe.snapshot())
    for memory in (dedupe, restored):
        assert memory.keep(["a", "c"], T0 + np.zeros(2), ["u1", "u1"]).tolist() == [False, False]
        assert memory.keep(["a"], np.array([T0 + 100]), ["u1"], T0 + 30).all()
    assert len(dedupe.take_journal()) == 2


def test_a_snapshot_of_the_version_before_is_read() -> None:
    state = msgspec.msgpack.encode((1, 1_000, 60.0, {"a": T0}, {"b": T0 + 1}))
    dedupe = Deduper(60.0)
    dedupe.restore(state)
    assert dedupe.keep(["a", "b", "c"], T0 + np.zeros(3), ["u", "u", "u"]).tolist() == [False, False, True]


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps no journal"):
        Deduper().take_journal()
    for wrong in (b"", b"hello", msgspec.msgpack.encode((1, ["a"], bytes(16))), Deduper(10).snapshot()):
        with pytest.raises(StateError, match="not a part of a Deduper's journal"):
            old_ids(wrong)
    with pytest.raises(StateError, match=r"window_s 5.0 does not fit window_s 6.0"):
        Deduper(6.0).restore(Deduper(5.0).snapshot())
    for wrong in (
        b"hello",
        msgspec.msgpack.encode((3, 6.0, 0, b"", b"")),
        msgspec.msgpack.encode((2, 6.0, 0, b"1", b"")),
    ):
        with pytest.raises(StateError, match="not a snapshot of a Deduper"):
            Deduper(6.0).restore(wrong)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="window_s is -1"):
        Deduper(window_s=-1.0)
    with pytest.raises(ValueError, match="the key has 3 bytes"):
        Deduper(key=b"abc")
    with pytest.raises(ValueError, match="1 event_ids and 2 ts"):
        Deduper().keep(["a"], np.zeros(2))
