"""What is counted of an entity's labels stays a share, however late a label is corrected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.batch import EventBatch, UpdateBatch
from weir.online.features.engine import FeatureEngine
from weir.online.features.plan import build_plan
from weir.online.features.spec import Entity, LabelAggregate
from weir.streams.embedded.memory_store import MemoryFeatureStore

DAY, START = 86_400.0, 1.7e9


def told(labels: list[tuple[float, float, float]], day: float, prior: float = 0.0) -> dict[str, float]:
    """The features at a day, after labels ``(day, value, unit)``; a correction has the change as value and no unit."""
    known = LabelAggregate(
        name="bad",
        ops=("count", "positives", "share", "ewmean"),
        windows=("7d",),
        half_life="7d",
        prior=prior,
        prior_share=0.1,
    )
    plan = build_plan((Entity(name="u", key="user_id", labels=(known,)),), {})
    engine = FeatureEngine(plan, MemoryFeatureStore(), inputs=("u.*",), indicators=False)
    for at, value, unit in labels:
        engine.apply("u.labels", UpdateBatch(["x"], ["a"], np.array([START + at * DAY]), np.array([[value, unit]])))
    row = engine.process(EventBatch(["q"], np.array([START + day * DAY]), ["x"], {"user_id": ["a"]})).x[0]
    return {name.removeprefix("u.bad_"): float(value) for name, value in zip(engine.features, row, strict=True)}


@pytest.mark.parametrize(
    ("labels", "day", "ewmean"),
    [
        ([(0.0, 0.0, 1.0), (60.0, 1.0, 0.0)], 61.0, 1.0),  # was 380
        ([(0.0, 1.0, 1.0), (6.0, -1.0, 0.0)], 8.0, 0.0),  # was -.81
        ([(0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 1.0, 0.0)], 0.5, 1.0),
        ([(0.0, 1.0, 1.0), (0.0, 1.0, 1.0), (0.0, -1.0, 0.0)], 0.5, 0.5),
    ],
)
def test_a_late_correction_brings_no_more_than_is_left(
    labels: list[tuple[float, float, float]], day: float, ewmean: float
) -> None:
    assert told(labels, day)["ewmean"] == pytest.approx(ewmean)


@given(
    st.lists(st.tuples(st.floats(0.0, 40.0), st.booleans(), st.booleans(), st.floats(0.0, 60.0)), min_size=1),
    st.floats(0.0, 99.0),
    st.sampled_from([0.0, 5.0]),
)
def test_shares_are_shares_and_positives_are_some_of_the_labels(
    seen: list[tuple[float, bool, bool, float]], day: float, prior: float
) -> None:
    labels = [(at, float(y), 1.0) for at, y, _, _ in seen]
    labels += [(at + late, -1.0 if y else 1.0, 0.0) for at, y, wrong, late in seen if wrong]
    found = told(sorted(labels, key=lambda label: label[0]), day, prior)
    for name in ("share_7d", "ewmean"):
        assert 0.0 <= found[name] <= 1.0 + 1e-12, name
    assert 0.0 <= found["positives_7d"] <= found["count_7d"]
