"""Alerts name the inputs behind the full model's logit, from what was logged with the score alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from weir.online.batch import FloatMatrix, IntVector, PredictionBatch, ScoredBatch
from weir.online.codec.encode import encode_scored
from weir.online.codec.predictions import decode_scored
from weir.online.codec.shapes import ScoredShape
from weir.online.decisions.alert_state import AlertState
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.reasons_full import FullReasons
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
inputs = ["amount", "user.*"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "spend", value = "amount", ops = ["count", "mean"], windows = ["1h"] }]
[model]
kind = "beside_full"
[[model.members]]
kind = "logistic"
[threshold]
kind = "fixed"
value = 0.5
[reasons]
positive = "fraud"
[full]
inputs = ["hour"]
state = 0
embedding = 1
reasons = 2
""")
SHAPE = shape_of(TASK)
COLUMN = {name: k for k, name in enumerate(SHAPE.features)}


def contributions(x: FloatMatrix, versions: IntVector) -> FloatMatrix:
    """The online model took the full model's log-odds by half, and the amount for a little."""
    del versions
    out = np.zeros(x.shape)
    out[:, COLUMN["full.logit"]] = 0.5 * x[:, COLUMN["full.logit"]]
    out[:, COLUMN["amount"]] = 0.1
    return out


def scored(n: int, seed: int = 1) -> ScoredBatch:
    """Events whose logit is explained by an hour (the full model's own input) and a count."""
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(0, 1, (n, len(SHAPE.features))))
    inputs = list(SHAPE.full_inputs)
    for name, value in {
        "full.logit": 4.0, "full.known": 1.0, "full.version": 3.0, "full.provider": 1.0,
        "full.why0": inputs.index("hour") + 1.0, "full.part0": 0.6,
        "full.why1": inputs.index("user.spend_count_1h") + 1.0, "full.part1": 0.3,
    }.items():  # fmt: skip
        x[:, COLUMN[name]] = value
    ids = [f"e{k}" for k in range(n)]
    p = PredictionBatch(
        ids, [f"u{k}" for k in range(n)], np.linspace(1.7e9, 1.7e9 + n, n), np.full(n, 0.9), np.arange(n) * 0, x
    )
    return ScoredBatch(p, np.empty((n, SHAPE.masks)), np.empty((n, len(SHAPE.watched))), {})


def alerts(parts: Sequence[ScoredBatch]) -> list[AlertState]:
    stage = LabellingStage(TASK, SHAPE.features, SHAPE.masks, SHAPE.secondary, contributions)
    return [alert for part in parts for alert in stage.scored(part).alerts]


def test_an_alert_names_the_inputs_behind_the_logit_with_value_and_contribution() -> None:
    batch = scored(1)
    (alert,) = alerts([batch])
    found = {reason.feature: reason for reason in alert.reasons}
    assert list(found) == ["hour", "user.spend_count_1h", "full.logit"]
    assert [reason.contribution for reason in alert.reasons] == pytest.approx([1.2, 0.6, 0.2])
    x = batch.predictions.features[0]
    assert all(reason.value == x[COLUMN[name]] for name, reason in found.items())
    assert "in 1 h" in found["user.spend_count_1h"].text


def test_what_was_logged_gives_the_same_reasons_bit_for_bit_on_a_replay() -> None:
    """Also in a labelling worker of its own, which has no full model and reads records."""
    batch = scored(40)
    records = encode_scored(batch, SHAPE.features, TASK.name, 1.7e9)
    shape = ScoredShape(SHAPE.features, SHAPE.masks, len(SHAPE.watched), SHAPE.secondary)
    read = decode_scored(records, {TASK.name: shape}).tasks[TASK.name].scored
    assert alerts([read]) == alerts([batch])
    assert len(alerts([read])) == 40


def test_nothing_is_added_and_what_says_nothing_is_left_alone() -> None:
    assert TASK.full is not None
    reasons, batch = FullReasons(TASK.full, SHAPE.features), scored(6)
    x = batch.predictions.features
    told = contributions(x, batch.predictions.model_version)
    told[1, COLUMN["full.logit"]] = -2.0  # it lowered the odds
    x[2, COLUMN["full.why0"]], x[2, COLUMN["full.why1"]] = 0.0, 99.0  # none, and one of another task
    x[3, [COLUMN["full.part0"], COLUMN["full.part1"]]] = 0.0
    out = reasons.handed_on(x, told)
    np.testing.assert_allclose(out.sum(axis=1), told.sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(out[1:4], told[1:4])
    assert (out[[0, 4, 5], COLUMN["full.logit"]] < told[[0, 4, 5], COLUMN["full.logit"]]).all()


def test_without_reasons_everything_is_as_it_was() -> None:
    names = tuple(name for name in SHAPE.features if "why" not in name and "part" not in name)
    told = np.ones((2, len(names)))
    assert FullReasons(FullSpec(), names).handed_on(np.ones((2, len(names))), told) is told
    assert FullReasons(None, ("amount",)).handed_on(np.ones((1, 1)), told) is told
