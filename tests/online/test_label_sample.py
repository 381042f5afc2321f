"""The sample of negative examples: its size, its weights, and corrections behind what was dropped."""

from __future__ import annotations

import numpy as np
import pytest

from weir.online.batch import ExampleBatch
from weir.online.labels.sampling import NegativeSampler


def examples(y: list[bool], correction: list[bool], ids: list[str] | None = None) -> ExampleBatch:
    n = len(y)
    return ExampleBatch(
        event_id=ids or [f"e{i}" for i in range(n)],
        ts=np.arange(n, dtype=np.float64),
        x=np.arange(n, dtype=np.float64)[:, None],
        score=np.zeros(n),
        y=np.array(y, dtype=np.bool_),
        weight=np.ones(n),
        correction=np.array(correction, dtype=np.bool_),
    )


@pytest.mark.parametrize("form", ["{}", "tx-{:08d}", "user-1:{}"])
def test_the_sample_is_of_the_asked_size_and_unbiased(form: str) -> None:
    n = 40_000
    y = [i % 10 == 0 for i in range(n)]
    kept = NegativeSampler(0.1, "s").sample(examples(y, [False] * n, [form.format(i) for i in range(n)]))
    assert int(kept.y.sum()) == n // 10
    assert kept.weight[kept.y].tolist() == [1.0] * (n // 10)
    assert kept.weight[~kept.y].sum() == pytest.approx(n * 0.9, rel=0.05)
    assert np.array_equal(kept.x[:, 0], kept.ts)


def test_samples_of_two_salts_are_independent() -> None:
    ids = [f"e{i}" for i in range(20_000)]
    one, two = NegativeSampler(0.3, "a").keeps(ids), NegativeSampler(0.3, "b").keeps(ids)
    assert np.mean(one & two) == pytest.approx(0.09, abs=0.01)


def test_corrections_after_a_dropped_negative() -> None:
    sampler = NegativeSampler(0.5)
    ids = [f"e{i}" for i in range(50)]
    drawn = sampler.keeps(ids)
    to_positive = sampler.sample(examples([True] * 50, [True] * 50, ids))
    assert to_positive.event_id == ids
    assert np.array_equal(to_positive.correction, drawn), "plain exactly where the negative was dropped"
    to_negative = sampler.sample(examples([False] * 50, [True] * 50, ids))
    assert to_negative.event_id == ids, "a learned positive is always taken back"
    assert to_negative.weight.tolist() == [1.0] * 50


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate is"):
        NegativeSampler(rate)
