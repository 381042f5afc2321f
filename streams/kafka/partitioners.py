"""Partitioners over a batch of keys: Kafka's own (murmur2 of the key), and the default of librdkafka (CRC32).

Same result as the Java client, kafka-python and aiokafka, whose pure-Python murmur2 costs 5-10 us a key.
Sources: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey; rd_crc32 of librdkafka.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from weir.online.jit import njit

PartitionerName = Literal["murmur2", "crc32"]


def _partitions(data: NDArray[np.uint8], sizes: NDArray[np.int64], partitions: int, out: NDArray[np.int64]) -> None:
    # data (sum(sizes),) uint8, sizes (B,), out (B,). All arithmetic in uint32, which wraps as Java's int does.
    # The multiplier and the shifts are murmur2's; the seed in `h` is one that Kafka chose. Clients of all languages
    # have both.
    m = np.uint32(0x5BD1E995)
    at = 0
    for i in range(len(sizes)):
        size = sizes[i]
        h = np.uint32(np.uint32(0x9747B28C) ^ np.uint32(size))
        end = at + size
        while end - at >= 4:
            k = np.uint32(data[at])
            k |= np.uint32(np.uint32(data[at + 1]) << np.uint32(8))
            k |= np.uint32(np.uint32(data[at + 2]) << np.uint32(16))
            k |= np.uint32(np.uint32(data[at + 3]) << np.uint32(24))
            k = np.uint32(k * m)
            k = np.uint32(k ^ (k >> np.uint32(24)))
            k = np.uint32(k * m)
            h = np.uint32(np.uint32(h * m) ^ k)
            at += 4
        if end - at >= 3:
            h = np.uint32(h ^ np.uint32(np.uint32(data[at + 2]) << np.uint32(16)))
        if end - at >= 2:
            h = np.uint32(h ^ np.uint32(np.uint32(data[at + 1]) << np.uint32(8)))
        if end - at >= 1:
            h = np.uint32(h ^ np.uint32(data[at]))
            h = np.uint32(h * m)
        at = end
        h = np.uint32(h ^ (h >> np.uint32(13)))
        h = np.uint32(h * m)
        h = np.uint32(h ^ (h >> np.uint32(15)))
        # As Kafka's toPositive: the sign bit is dropped. The absolute value would put half of the keys elsewhere.
        out[i] = np.int64(h & np.uint32(0x7FFFFFFF)) % partitions


def _crc32(
    data: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    partitions: int,
    out: NDArray[np.int64],
    table: NDArray[np.uint32],
) -> None:
    # As _partitions; table (256,) uint32, the checksum's effect of each byte.
    at = 0
    for i in range(len(sizes)):
        h = np.uint32(0xFFFFFFFF)
        for j in range(at, at + sizes[i]):
            h = np.uint32((h >> np.uint32(8)) ^ table[np.uint32(h ^ np.uint32(data[j])) & np.uint32(0xFF)])
        at += sizes[i]
        # Here no bit is dropped: librdkafka takes the remainder of the unsigned number.
        out[i] = np.int64(np.uint32(h ^ np.uint32(0xFFFFFFFF))) % partitions


_kernel = njit(cache=True)(_partitions)
_crc32_kernel = njit(cache=True)(_crc32)


def _crc32_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    return table


_TABLE: Final = _crc32_table()


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """The partition of each key, ``(B,) int64``, among ``partitions`` of them.

    Examples
    --------
    >>> partitions_of([b"u1", b"u2", b""], 4).tolist()
    [0, 2, 1]
    """
    sizes = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    return partitions_of_joined(np.frombuffer(b"".join(keys), dtype=np.uint8), sizes, partitions)


def partitions_of_text(
    keys: Sequence[str], partitions: int, partitioner: PartitionerName = "murmur2"
) -> NDArray[np.int64]:
    """`partitions_of` for keys as text, by either partitioner.

    >>> partitions_of_text(["u1", "é"], 4).tolist() == partitions_of([b"u1", "é".encode()], 4).tolist()
    True
    """
    joined = "".join(keys)
    sizes = np.fromiter(map(len, keys), dtype=np.int64, count=len(keys))
    # Only then has a key more bytes than characters, and has to be encoded to know how many.
    if not joined.isascii():
        sizes = np.fromiter((len(key.encode()) for key in keys), dtype=np.int64, count=len(keys))
    return partitions_of_joined(np.frombuffer(joined.encode(), dtype=np.uint8), sizes, partitions, partitioner)


def partitions_of_joined(
    keys: NDArray[np.uint8], sizes: NDArray[np.int64], partitions: int, partitioner: PartitionerName = "murmur2"
) -> NDArray[np.int64]:
    """`partitions_of` for keys end to end, ``(sum(sizes),) uint8``, of ``sizes`` bytes each, ``(B,) int64``."""
    out = np.zeros(len(sizes), dtype=np.int64)
    if partitions > 1 and len(sizes):
        if partitioner == "crc32":
            _crc32_kernel(keys, sizes, partitions, out, _TABLE)
        else:
            _kernel(keys, sizes, partitions, out)
    return out
