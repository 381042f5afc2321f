"""Records and states that hold no UTF-8, or are nested too deeply, end nobody who reads them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from weir.online.errors import StateError
from weir.online.intake_policy import IntakePolicy
from weir.online.metrics.arrays import unpack
from weir.online.stages.admission import Admission
from weir.streams.redis import blobs
from weir.streams.redis.blobs import MOST_BYTES, PART_BYTES, BlobRef, _pack, _unpack
from weir.streams.trainer.job.live_examples import _read
from weir.streams.trainer.task_state import decode
from weir.streams.worker.inference.inference_wire import Answer, decode_answer, decode_request

DEEP = b'{"task":"fraud","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
JSON = [b'{"task":"fra\xff\xfe","event_id":"e"}', DEEP, b"{", b""]
PACKED = [b"\x81\xa4kind\xa2\xff\xfe", b"\x81\xa1x" + b"\x91" * 100_000 + b"\x01", b"\xff", b""]


@pytest.mark.parametrize("record", JSON)
def test_an_example_that_cannot_be_read_is_left_out_by_the_trainer(record: bytes) -> None:
    assert _read(record, "fraud") is None
    with pytest.raises(StateError):
        decode(record, "journal")


@pytest.mark.parametrize("state", PACKED)
def test_a_state_that_cannot_be_read_is_a_state_error(state: bytes) -> None:
    with pytest.raises(StateError):
        unpack("kind", state)
    with pytest.raises(StateError):
        Admission(IntakePolicy()).resume(state)
    for read in (decode_request, decode_answer):
        with pytest.raises(ValueError, match="only"):
            read(state)


@pytest.mark.parametrize("rows", [1, 10**12])
def test_an_answer_without_values_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="rows in 0 B"):
        decode_answer(msgspec.msgpack.encode(Answer(1, "id", "fraud", rows, b"")))


def test_a_blob_that_unpacks_to_more_than_anybody_stores_is_none() -> None:
    ref, packed = _pack("k", bytes(1000), PART_BYTES)
    assert _unpack(ref, packed) == bytes(1000)
    assert _unpack(ref, packed[:-3]) is None
    forged = BlobRef("k", 10**9, b"", True, 1)
    assert len(forged.part_keys()) == MOST_BYTES // PART_BYTES


class Values:
    """As much of a Redis as blobs need."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def execute(self, command: str, key: str, *args: bytes) -> bytes | None:
        if command == "SET":
            self.held[key] = args[0]
        return self.held.get(key)


async def test_a_blob_that_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it counted, what it takes the place of would be gone, and the next start would find neither."""
    monkeypatch.setattr(blobs, "MOST_BYTES", 1000)
    monkeypatch.setattr(blobs, "PART_BYTES", 100)
    store = cast(Any, Values())
    assert await blobs.get_blob(store, await blobs.put_blob(store, "a", bytes(1000))) == bytes(1000)
    with pytest.raises(StateError, match="b: 1001 B are more than is read back, 1000"):
        await blobs.put_blob(store, "b", bytes(1001))
    assert not [key for key in store.held if key.startswith("b")]
