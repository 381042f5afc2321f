"""Stretches of a partition that are handed over as one batch keep their records, offsets and order."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from weir.streams.kafka.consume.drained import PartitionRead, take_together
from weir.streams.records import Record


def stretches(lengths: list[tuple[int, int, int]], epochs: list[int]) -> deque[PartitionRead]:
    """Of ``(records, gap inside, gap behind)``: offsets go on, with holes where compaction or markers left them."""
    parts: deque[PartitionRead] = deque()
    at = 7
    for (count, inside, behind), epoch in zip(lengths, epochs, strict=True):
        offsets = [at + k + (inside if 2 * k >= count else 0) for k in range(count)]
        after = (offsets[-1] + 1 if offsets else at) + behind
        records = [Record(b"%d" % offset, b"", 0.0) for offset in offsets]
        whole = not offsets or offsets[-1] - offsets[0] == count - 1
        base = offsets[0] if offsets else at
        parts.append(PartitionRead("t", 0, base, after, records, None if whole else tuple(offsets), epoch))
        at = after
    return parts


PARTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6)


@given(PARTS, st.integers(1, 12), st.data())
def test_records_offsets_and_order_stay(lengths: list[tuple[int, int, int]], most: int, data: st.DataObject) -> None:
    epochs = sorted(data.draw(st.lists(st.integers(1, 2), min_size=len(lengths), max_size=len(lengths))))
    parts = stretches(lengths, epochs)
    before = [(record, part.epoch) for part in parts for record in part.records]
    after, reached = [], 0
    while parts:
        left = len(parts)
        taken = take_together(parts, most)
        assert len(taken.records) <= most or left - len(parts) == 1, "only a stretch that is larger by itself"
        assert taken.base_offset >= reached
        reached = taken.next_offset
        numbers = taken.offsets or range(taken.base_offset, taken.base_offset + len(taken.records))
        assert [record.key for record in taken.records] == [b"%d" % number for number in numbers]
        assert all(number < reached for number in numbers)
        after += [(record, taken.epoch) for record in taken.records]
    assert after == before
