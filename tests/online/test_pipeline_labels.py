"""What a label does in a pipeline: the features it feeds, its corrections and repeats, and the negatives left out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.online.pipeline_runs import features, pipeline_of
from tests.online.task_streams import FRAUD, T0, label, purchase
from weir.online.batch import EventBatch, LabelBatch


def test_a_correction_moves_the_label_to_the_other_side() -> None:
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0))
    pipeline.labels(label(1, 1, False))
    before = features(pipeline, purchase(2, T0 + 60))
    corrected = pipeline.labels(label(2, 1, True))
    after = features(pipeline, purchase(3, T0 + 120))
    assert (before["merchant.fraud_positives_7d"], after["merchant.fraud_positives_7d"]) == (0.0, 1.0)
    assert before["merchant.fraud_count_7d"] == after["merchant.fraud_count_7d"] == 1.0
    assert (before["merchant.fraud_last"], after["merchant.fraud_last"]) == (0.0, 1.0)
    assert corrected.examples[0].y.tolist() == [True]
    back = pipeline.labels(label(3, 1, False))
    assert features(pipeline, purchase(4, T0 + 180))["merchant.fraud_positives_7d"] == 0.0
    assert [e.correction.tolist() for e in back.examples] == [[True]]


@pytest.mark.parametrize("repeat", ["label", "value"])
def test_a_repeated_label_changes_nothing(repeat: str) -> None:
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0))
    pipeline.labels(label(1, 1, True))
    version = pipeline.model.version
    out = pipeline.labels(label(1 if repeat == "label" else 2, 1, True))
    assert (out.examples, pipeline.model.version, pipeline.labelled) == ([], version, 1)


def test_the_filter_of_a_label_aggregate_is_judged_when_the_event_is_scored() -> None:
    """``where`` may use what is known only after other aggregates of the event have run, in any order of entities."""
    pipeline = pipeline_of()
    pipeline.events(purchase(1, T0, amount=10))
    pipeline.events(purchase(2, T0 + 60, amount=1000))  # 100 times this user's mean: ``ratio < 3`` fails
    for number in (1, 2):
        pipeline.labels(label(number, number, True))
    assert features(pipeline, purchase(3, T0 + 120))["merchant.fraud_positives_7d"] == 1.0


def test_an_event_without_a_secondary_entity_has_its_features_missing() -> None:
    pipeline = pipeline_of()
    for number in range(3):
        pipeline.events(purchase(number, T0 + number))
        pipeline.labels(label(number, number, True))
    made = features(pipeline, purchase(9, T0 + 60, merchant=None))
    assert made["merchant.fraud_positives_7d"] == made["merchant.fraud_last"] == 0.0
    assert made["merchant.fraud_missing"] == 1.0
    assert made["user.amount_count_1d"] == 4.0
    pipeline.labels(label(9, 9, True))
    assert features(pipeline, purchase(10, T0 + 90, merchant=None))["merchant.fraud_positives_7d"] == 0.0
    assert features(pipeline, purchase(11, T0 + 90))["merchant.fraud_positives_7d"] == 3.0


def test_sampled_negatives_keep_probabilities_calibrated() -> None:
    """One negative in ten is learned, and the mean prediction is still the base rate."""
    rng = np.random.default_rng(8)
    n = 6_000
    y = rng.random(n) < 0.05
    means = {}
    for rate in (1.0, 0.1):
        pipeline = pipeline_of(FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}").replace("0.3", "0.03"))
        made: list[float] = []
        learned = 0
        for start in range(0, n, 200):
            batch = EventBatch(
                [f"e{i}" for i in range(start, start + 200)],
                T0 + 60.0 * np.arange(start, start + 200, dtype=np.float64),
                ["purchase"] * 200,
                {"user_id": [f"u{i % 40}" for i in range(200)], "merchant_id": [None] * 200},
                {"amount": rng.lognormal(2, 0.5, 200) + 5.0 * y[start : start + 200]},
                {"channel": [None] * 200},
            )
            out = pipeline.events(batch)
            assert out.predictions is not None
            made += out.predictions.score.tolist()
            known = pipeline.labels(
                LabelBatch(
                    [f"l{e}" for e in batch.event_id], [f"u{i % 40}" for i in range(200)], list(batch.event_id),
                    batch.ts, y[start : start + 200], np.ones(200),
                )
            )  # fmt: skip
            learned += sum(len(e) for e in known.examples)
        assert pipeline.labelled == n
        assert learned == pipeline.model.version
        assert learned < n * (rate + 0.1) + 1
        means[rate] = float(np.mean(made[n // 3 :]))
    base = float(y[n // 3 :].mean())
    # Plain SGD is a little off; without their weights, the sampled negatives would make it some seven times the rate.
    assert means[1.0] == pytest.approx(base, rel=0.5)
    assert means[0.1] == pytest.approx(base, rel=0.5)
    assert means[0.1] == pytest.approx(means[1.0], rel=0.3)
