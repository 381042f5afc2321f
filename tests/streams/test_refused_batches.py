"""What was refused as it was fetched goes to the dead letters with its batch, also where nothing else is in it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from tests.streams.score_lanes import NOW, Context, Lanes, Outbox
from tests.streams.test_full_remote_reasons import INPUTS, runner
from tests.streams.test_worker_journal import SideMemory
from tests.streams.test_worker_scoring import START, TASKS, records_of
from weir.online.batch import UpdateBatch
from weir.online.codec.predictions import ScoredShape
from weir.online.codec.row_updates import encode_updates
from weir.online.codec.wire import REASON_CHARS, DeadLetter
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.ops.metrics import Metrics
from weir.streams.outputs import KEY_KEPT, dead_letter, letter_room
from weir.streams.records import Record, RefusedRecord
from weir.streams.redis.partitions.label_journal import OffsetRange as Taken
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_partition import InferenceLane
from weir.streams.worker.labelling.step_reader import LaneReader

LARGE = RefusedRecord(
    1, "oversized: 3000000 bytes, allowed 1048576", Record(b"k", b"{head", NOW), None, 3_000_000, "ab" * 32
)
BOMB = RefusedRecord(2, "oversized: a batch", Record(b"", b"\x00raw", 0.0), 41)


def letters_of(ctx: Context) -> list[DeadLetter]:
    return [DeadLetter.model_validate_json(r.value) for r in ctx.records.sent.get((topics.DEAD_LETTERS, -1), [])]


def mixed(topic: str, records: list[Record]) -> FetchedBatch:
    """Records at offsets 0 and from 42 on; what was refused lies between them."""
    offsets = (0, *range(42, 41 + len(records)))
    ticket = Ticket((topic, 0), 0, offsets[-1] + 1, 0)
    return FetchedBatch(topic, 0, 0, offsets[-1] + 1, records, ticket, offsets, refused=(LARGE, BOMB))


def refused_only(topic: str) -> FetchedBatch:
    return FetchedBatch(topic, 0, 1, 42, (), Ticket((topic, 0), 1, 42, 0), refused=(LARGE, BOMB))


async def test_a_score_lane_sends_them_in_their_order_and_goes_on_behind() -> None:
    lanes = await Lanes(TASKS, 1).open()
    lane, ctx = lanes.lanes[0], lanes.ctx
    events = records_of([(1, (0, 1, 0.0, True)), (2, (0, 2, 1.0, True))], START)
    records = [*events, Record(b"", b"{broken", START)]
    step = await lane.compute(mixed(topics.USER_EVENTS, records))
    assert step.batch.next_offset == 44
    assert [(x.offset, x.last_offset, x.raw_bytes) for x in letters_of(ctx)] == [
        (1, None, 3_000_000), (2, 41, None), (43, None, None)
    ]  # fmt: skip
    assert letters_of(ctx)[0].raw_sha256 == "ab" * 32
    step = await lane.compute(replace(refused_only(topics.USER_EVENTS), base_offset=44, next_offset=90))
    assert (step.batch.next_offset, len(letters_of(ctx))) == (90, 5)


async def test_a_side_lane_and_an_inference_lane_take_a_batch_of_nothing_else() -> None:
    side = SideMemory()
    ctx: Any = side.lane.ctx
    ctx.records, ctx.now = Outbox(), lambda: NOW
    side.lane.restore(None, [])
    n = 2
    updates = UpdateBatch(["e0", "e1"], ["m"] * n, np.full(n, 1.7e9), np.ones((n, side.width)))
    records = [Record(b"m", value, 1.7e9) for value in encode_updates(updates, "t", side.layout)]
    await side.lane.compute(mixed(topics.ENTITY_UPDATES, records))
    await side.lane.compute(refused_only(topics.ENTITY_UPDATES))
    assert [x.offset for x in letters_of(ctx)] == [1, 2, 1, 2]

    far: Any = Context()
    pool = Pool(far.store, {"fraud": runner()}, {"fraud": 60.0}, Metrics(), linger_s=0.0)
    lane = InferenceLane((topics.INFERENCE_REQUESTS, 0), far, {"fraud": runner()}, {"fraud": len(INPUTS)}, pool)
    await lane.open()
    await lane.compute(refused_only(topics.INFERENCE_REQUESTS))
    assert [x.offset for x in letters_of(far)] == [1, 2]


@pytest.mark.parametrize("topic", [topics.LABELS, topics.PREDICTIONS])
def test_a_label_lane_decodes_the_rest_and_the_same_when_it_is_read_again(topic: str) -> None:
    reader = LaneReader(0, cast(Any, Context()), {"t": ScoredShape(("a",), 0, 0, ())}, cast(Any, None))
    records = [Record(b"", b"{broken", NOW)] * 3
    batch = mixed(topic, records)
    work = reader.decode(batch)
    assert [r.offset for r in work.refused] == [0, 1, 2, 42, 43]
    assert (work.records, work.step) == (3 + 1 + 40, Taken(topic, 0, 44))
    again = reader.decode_step(work.step, Slice(batch.offsets or (), records, batch.refused))
    assert again.refused == work.refused
    assert [r.offset for r in reader.decode(refused_only(topic)).refused] == [1, 2]


async def test_the_offsets_of_a_batch_count_for_the_limit_and_for_the_metric() -> None:
    lanes = await Lanes(TASKS, 1).open()
    await lanes.lanes[0].compute(refused_only(topics.USER_EVENTS))
    found = {k: cast(Any, child).value for k, child in lanes.ctx.metrics.children("weir_dead_letters_total").items()}
    assert list(found.values()) == [41]
    unreadable = replace(refused_only(topics.USER_EVENTS), refused=(BOMB._replace(reason="unreadable: a batch"),))
    await lanes.lanes[0].compute(unreadable)
    found = {k: cast(Any, child).value for k, child in lanes.ctx.metrics.children("weir_dead_letters_total").items()}
    assert sorted(found.values()) == [40, 41]


# -- letters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 700, 1_048_576, 3_000_000])
@pytest.mark.parametrize("most", [1_048_588, 2_097_152])
def test_a_letter_fits_its_topic_whatever_it_holds(size: int, most: int) -> None:
    raw, topic = os.urandom(size), "t" * 249
    reason = "\x00\ud800\u202e\U0001f600" * 1_000
    refused = RefusedRecord(2**62, reason, Record(b"\xff" * 2_000_000, raw, 0.0))
    record = dead_letter(topic, 2**31 - 1, refused, NOW, letter_room(most))
    assert len(record.key) + len(record.value) + 100 < most
    letter = DeadLetter.model_validate_json(record.value)
    assert letter.raw == raw[: len(letter.raw)]
    assert (letter.key, len(letter.reason)) == (b"\xff" * KEY_KEPT, REASON_CHARS)
    if size > letter_room(most):
        assert (len(letter.raw), letter.raw_bytes) == (letter_room(most), size)
        assert letter.raw_sha256 == hashlib.sha256(raw).hexdigest()
    else:
        assert (letter.raw, letter.raw_bytes, letter.raw_sha256) == (raw, None, None)


def test_what_the_fetch_cut_keeps_its_length_and_digest() -> None:
    letter = DeadLetter.model_validate_json(dead_letter("t", 0, LARGE, NOW, 3).value)
    assert (letter.raw, letter.raw_bytes, letter.raw_sha256) == (b"{he", 3_000_000, "ab" * 32)
