"""Record batches as brokers give them, made in memory: good ones by aiokafka, and what is done to them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from weir.online.codec.limits import InputLimits
from weir.streams.kafka.consume.fetched import FetchedRecords, Unpacking
from weir.streams.kafka.consume.fetched_batch import Slice

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
T0_MS: Final = 1_700_000_000_000
Pair = tuple[bytes | None, bytes | None]
Pairs = Sequence[Pair]
PARTITION: Final = ("events", 0)


def batch(pairs: Pairs, base: int = 0, codec: str = "none", producer: int = -1, transactional: bool = False) -> bytes:
    """A batch of keys and values at offsets from ``base`` on, a millisecond apart."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], int(transactional), producer, -1, -1, 1 << 30)
    for i, (key, value) in enumerate(pairs):
        builder.append(i, T0_MS + i, key, value, headers=[("h", b"\xff")])
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def old_batch(pairs: Pairs, magic: int, base: int = 0, codec: str = "none") -> bytes:
    """The same in a format of before 2017; compressed it is one message, with the offset of its last."""
    builder = LegacyRecordBatchBuilder(magic, CODECS[codec], 1 << 30)
    for i, (key, value) in enumerate(pairs):
        builder.append(i if codec != "none" and magic else base + i, T0_MS + i, key, value)
    made = bytes(builder.build())
    return made if codec == "none" else struct.pack(">q", base + len(pairs) - 1) + made[8:]


def with_crc(made: bytes) -> bytes:
    """The batch with a checksum that is right for what it holds now."""
    return made[:17] + struct.pack(">I", calc_crc32c(made[21:])) + made[21:]


def framed(made: bytes, body: bytes, codec: str | int = "none", records: int | None = None) -> bytes:
    """The header of a batch around another body, with a length and a checksum that fit."""
    number = codec if isinstance(codec, int) else CODECS[codec]
    header = bytearray(made[:61])
    struct.pack_into(">i", header, 8, 49 + len(body))
    struct.pack_into(">h", header, 21, number)
    if records is not None:
        struct.pack_into(">i", header, 57, records)
    return with_crc(bytes(header) + body)


def read(
    data: bytes, position: int = 0, limits: InputLimits | None = None, most: int = 1_000, **fields: Any
) -> tuple[Slice, int]:
    """All of a fetch, fetched again where it is damaged, and where reading goes on."""
    unpacking, found = Unpacking(limits or InputLimits()), list[Slice]()
    for _ in range(2):
        fetched = FetchedRecords(unpacking, PARTITION, from_offset(data, position), position, **fields)
        while not fetched.done:
            found.append(fetched.take(most, 1 << 30))
        position = fetched.next_fetch_offset
    return Slice.concat(found), position


def from_offset(data: bytes, position: int) -> bytes:
    """What a broker gives who asks for an offset: it begins with the batch that holds it."""
    while len(data) > 61:
        base, length = struct.unpack_from(">qi", data)
        (last,) = struct.unpack_from(">i", data, 23) if data[16] >= 2 else (0,)
        if length < 14 or base + last >= position:
            break
        data = data[12 + length :]
    return data


def values(found: Slice) -> list[bytes]:
    return [record.value for record in found.records]
