"""The inputs behind a logit (ADR 16) when the full model runs elsewhere: each event is told its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import orjson
from faust.types import TP

from tests.models.graphs import linear_graph
from tests.models.served_graphs import runner_of
from tests.streams.score_lanes import NOW, Context, Lanes, Outbox
from weir.models.serving.active_models import Pair
from weir.models.serving.model_runner import FullRunner
from weir.models.serving.occlusion import Baseline
from weir.models.serving.ort_model import OrtModel
from weir.online.batch import FloatMatrix
from weir.online.task.full_spec import columns
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.produce.producer import Sent
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_partition import InferenceLane
from weir.streams.worker.inference.inference_wire import blocks
from weir.streams.worker.inference.remote_models import RemoteModels, Rows

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
inputs = ["amount", "user.*"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "spend", value = "amount", ops = ["count", "mean"], windows = ["1h"] }]
[model]
kind = "logistic"
[full]
inputs = ["hour"]
state = 0
reasons = 2
remote = true
deadline = "10s"
""")
assert TASK.full is not None
SPEC, INPUTS = TASK.full, shape_of(TASK).full_inputs
WHY = slice(columns(SPEC).index("full.why0"), None)
RNG = np.random.default_rng(1)
WEIGHT, USUAL = RNG.uniform(-0.5, 2.0, len(INPUTS)).astype(np.float32), RNG.uniform(0.0, 3.0, len(INPUTS))
ABOVE = 12.0
PARTITIONS = 3


def runner() -> FullRunner:
    """Of a model whose logit is a sum, so that what raised it is known."""
    model = OrtModel.load(linear_graph(WEIGHT), 7, INPUTS, provider="cpu")
    model.usual = Baseline(tuple(USUAL.tolist()), above=ABOVE)
    found = runner_of(SPEC, INPUTS)
    found.slots.swap(Pair(model))
    return found


def expected(x: FloatMatrix) -> FloatMatrix:
    """``(n, 4)``: number and part of the two inputs whose terms are the largest above their usual ones."""
    gain = np.maximum((x - USUAL) * WEIGHT, 0.0) * (x @ WEIGHT >= ABOVE)[:, None]
    first = np.argsort(-gain, axis=1)[:, :2]
    part = np.take_along_axis(gain, first, axis=1) / np.maximum(gain.sum(axis=1, keepdims=True), 1e-9)
    return np.stack([np.where(part > 0.0, first + 1.0, 0.0), part], axis=2).reshape(len(x), 4)


class Inference(Outbox):
    """An inference worker that takes requests without a broker; what it sends is answered last first."""

    def __init__(self) -> None:
        super().__init__()
        self.ctx, scorers = cast(Any, Context()), {"fraud": runner()}
        pool = Pool(self.ctx.store, scorers, {"fraud": 60.0}, Metrics(), linger_s=0.0)
        self.lanes = [
            InferenceLane((topics.INFERENCE_REQUESTS, p), self.ctx, scorers, {"fraud": len(INPUTS)}, pool)
            for p in range(PARTITIONS)
        ]
        self.models = RemoteModels(cast(Any, self), "requests", "w", Metrics(), asyncio.get_running_loop().time)
        self.requests = 0
        self._working: list[asyncio.Task[None]] = []

    async def open(self) -> Inference:
        for lane in self.lanes:
            await lane.open()
        return self

    async def send_to(self, topic: str, partition: int, records: Sequence[Record]) -> asyncio.Future[list[Sent]]:
        self.requests += len(records)
        self._working.append(asyncio.ensure_future(self._answer(topic, partition, list(records))))
        return await super().send_to(topic, partition, records)

    async def _answer(self, topic: str, partition: int, records: list[Record]) -> None:
        ticket = Ticket(TP(topic, partition), 0, len(records), 0)
        await self.lanes[partition].compute(FetchedBatch(topic, partition, 0, len(records), records, ticket))
        for answer in reversed(self.ctx.records.sent.pop((topics.INFERENCE_RESULTS, partition))):
            self.models.answered(answer.value)

    async def ask(self, partition: int, ids: Sequence[int], x: FloatMatrix) -> FloatMatrix:
        """The inputs behind the logits of these events."""
        names = [f"e{i}" for i in ids]
        rows = Rows("fraud", SPEC, names, ["u"] * len(names), np.full(len(names), NOW), x)
        (made,), _ = await self.models.ask(partition, [rows], NOW)
        assert made[:, columns(SPEC).index("full.known")].all(), "every row is answered"
        return made[:, WHY]

    async def settle(self) -> None:
        """Raise what went wrong in it."""
        await asyncio.gather(*self._working)


def inputs(n: int, seed: int) -> FloatMatrix:
    """Rows of which about half are explained, by any of the inputs."""
    x = np.random.default_rng(seed).exponential(3.0, (n, len(INPUTS)))
    assert 0.2 < np.count_nonzero(expected(x)[:, 0]) / n < 0.8
    assert len(np.unique(expected(x)[:, 0])) > 3
    return x.astype(np.float32).astype(np.float64)  # as it is on the wire


def check(made: FloatMatrix, x: FloatMatrix) -> None:
    np.testing.assert_allclose(made, expected(x), atol=1e-5)


async def test_predictions_say_what_raised_the_logit_of_their_own_event() -> None:
    inference = await Inference().open()
    lanes = await Lanes([TASK], PARTITIONS, remote=inference.models).open()
    amounts = np.random.default_rng(2).exponential(6.0, (PARTITIONS, 30))
    await lanes.compute([lanes.batch(p, events(p, amounts[p].tolist())) for p in range(PARTITIONS)])
    await inference.settle()
    found = []
    for p in range(PARTITIONS):
        said = [orjson.loads(record.value) for record in lanes.ctx.records.sent[topics.PREDICTIONS, p]]
        assert [each["event_id"] for each in said] == [f"e{p}-{i}" for i in range(30)]
        assert [each["features"]["amount"] for each in said] == amounts[p].tolist()
        found += [each["features"] for each in said]
    made = np.array([[each[name] for name in columns(SPEC)[WHY]] for each in found])
    x = np.array([[each[name] for name in INPUTS] for each in found])
    check(made, x)
    assert len(np.unique(made[:, 0])) > 2, "some are not explained, others by different inputs"


def events(partition: int, amounts: Sequence[float]) -> list[Record]:
    """Of three users of a partition; an hour of the day apart."""
    return [
        Record(b"", orjson.dumps({
            "v": 1, "event_id": f"e{partition}-{i}", "type": "purchase", "user_id": f"u{partition}-{i % 3}",
            "ts": 1.7e9 + 3600.0 * i, "amount": amount,
        }), 1.7e9 + 3600.0 * i)
        for i, amount in enumerate(amounts)
    ]  # fmt: skip


async def test_blocks_of_partitions_that_are_scored_together_keep_their_reasons_apart() -> None:
    inference, n = await Inference().open(), 5_000
    given = [inputs(n, p) for p in range(PARTITIONS)]
    made = await asyncio.gather(*(inference.ask(p, range(n), given[p]) for p in range(PARTITIONS)))
    for values, x in zip(made, given, strict=True):
        check(values, x)
    assert inference.requests == PARTITIONS * len(list(blocks(n, len(INPUTS)))) > PARTITIONS


async def test_events_that_are_asked_about_again_have_the_reasons_they_had() -> None:
    inference, x = await Inference().open(), inputs(60, 5)
    check(await inference.ask(0, range(40), x[:40]), x[:40])
    mixed = [*range(59, 40, -2), *range(0, 40, 3), *range(40, 60, 2)]  # new ones before, between and behind
    check(await inference.ask(0, mixed, x[mixed]), x[mixed])
