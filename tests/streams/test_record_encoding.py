"""Record batches as the transport encodes them: the bytes that aiokafka's own builder makes, and that it reads back."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import get_args

import numpy as np
import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.streams.config.connections import KafkaSettings
from weir.streams.kafka.produce.record_batches import Columns, EncodedBatch, encoded_batches
from weir.streams.records import Record

CODECS = get_args(KafkaSettings.model_fields["compression_type"].annotation)[1:]
# The sizes around which a variable-length number takes one byte more.
sizes = st.sampled_from([0, 1, 2, 62, 63, 64, 65, 130, 8_191, 8_192])
chunks = st.builds(lambda size, byte: bytes([byte]) * size, sizes, st.integers(0, 255))
times = st.floats(0, 4e9, allow_nan=False)
records_of = st.lists(st.builds(Record, chunks, chunks, times), min_size=1, max_size=140)


def read_back(batches: list[EncodedBatch]) -> list[Record]:
    found = []
    for batch in batches:
        memory = MemoryRecords(bytes(batch._build()))
        while (each := memory.next_batch()) is not None:
            assert each.validate_crc()
            found += [Record(r.key, r.value, r.timestamp / 1000) for r in each]
    return found


@given(records=records_of, producer=st.tuples(st.integers(0, 2**62), st.integers(0, 9), st.integers(0, 2**31 - 1)))
@settings(max_examples=40, deadline=None)
def test_bytes_are_those_of_aiokafkas_builder(records: list[Record], producer: tuple[int, int, int]) -> None:
    theirs = BatchBuilder(1 << 30, 0)
    for key, value, ts in records:
        theirs.append(timestamp=int(ts * 1000), key=key, value=value)
    theirs._set_producer_state(*producer)
    (ours,) = encoded_batches(Columns.of(records), np.arange(len(records)), 1 << 30)
    ours._set_producer_state(*producer)
    assert bytes(ours._build()) == bytes(theirs._build())
    assert ours.record_count() == theirs.record_count()


@given(records=records_of, limit=st.integers(1, 20_000), data=st.data())
@settings(max_examples=40, deadline=None)
def test_batches_are_full_but_not_over_the_limit(records: list[Record], limit: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(records) - 1), unique=True))
    batches = list(encoded_batches(Columns.of(records), np.array(rows, dtype=np.int64), limit))
    chosen = [records[row]._replace(ts=int(records[row].ts * 1000) / 1000) for row in rows]
    assert read_back(batches) == chosen
    assert [b for b in batches if b.size() > limit and b.record_count() > 1] == []
    for one, following in pairwise(batches):
        assert one.size() + following.size() > limit


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_batches_are_smaller_and_the_same(codec: str) -> None:
    records = [Record(b"k%d" % (i % 9), b"a value that repeats " * 4, float(i)) for i in range(500)]
    columns, rows = Columns.of(records), np.arange(len(records))
    (plain,), (packed,) = encoded_batches(columns, rows, 1 << 20), encoded_batches(columns, rows, 1 << 20, codec)
    assert read_back([packed]) == records
    assert packed.size() < plain.size() / 4
    assert packed._build() is packed._build(), "a repeated request must be the same bytes"


@pytest.mark.parametrize("codec", CODECS)
def test_what_does_not_shrink_is_sent_plain(codec: str) -> None:
    (batch,) = encoded_batches(Columns.of([Record(b"k", b"v", 1.0)]), np.arange(1), 1 << 20, codec)
    assert read_back([batch]) == [Record(b"k", b"v", 1.0)]


def test_no_records_make_no_batch() -> None:
    assert list(encoded_batches(Columns.of([]), np.arange(0), 1 << 20)) == []


@given(parts=st.lists(records_of, max_size=4))
def test_columns_behind_each_other_hold_all_records_in_order(parts: list[list[Record]]) -> None:
    together, one = Columns.concat([Columns.of(part) for part in parts]), Columns.of(list(chain.from_iterable(parts)))
    assert [together.record(row) for row in range(len(together))] == [one.record(row) for row in range(len(one))]
    assert together.sizes().tolist() == one.sizes().tolist()
    assert not together.values.flags.writeable, "compiled code would be compiled once more for arrays of another kind"


@given(rows=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=9))))
def test_columns_of_values_that_are_end_to_end_are_those_of_the_records(rows: list[tuple[str, bytes]]) -> None:
    keys, values = [key for key, _ in rows], [value for _, value in rows]
    ends = np.cumsum([len(value) for value in values], dtype=np.int64)
    made, records = Columns.written(keys, b"".join(values), ends, 1.25), [Record(k.encode(), v, 1.25) for k, v in rows]
    assert [made.record(row) for row in range(len(made))] == records
