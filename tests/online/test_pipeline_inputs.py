"""What a pipeline is given: events it passes over, values it has to bear, tasks and states that it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.online.pipeline_runs import features, pipeline_of, run, state
from tests.online.task_streams import FRAUD, T0, label, purchase, script
from weir.online.batch import EventBatch, LabelBatch
from weir.online.errors import StateError, TaskError


def test_events_of_other_types_or_without_the_entity_are_not_seen() -> None:
    pipeline = pipeline_of()
    assert pipeline.events(purchase(1, T0, kind="view")).predictions is None
    assert pipeline.events(purchase(2, T0, user=None)).predictions is None
    assert features(pipeline, purchase(3, T0 + 1))["user.amount_count_1d"] == 1.0
    assert pipeline.scored == 1


def test_another_tasks_columns_do_not_disturb() -> None:
    """Tasks share a stream's batch: what one reads as text may be a number to the other."""
    pipeline = pipeline_of()
    batch = purchase(1, T0)
    shared = EventBatch(
        batch.event_id, batch.ts, batch.type, {**batch.entities, "ratio": ["x"]},
        {**batch.numbers, "ratio": np.ones(1)}, {**batch.texts, "amount": ["ten"], "ratio": ["x"]},
    )  # fmt: skip
    assert features(pipeline, shared) == features(pipeline_of(), batch)


def test_an_empty_call_does_nothing() -> None:
    pipeline = pipeline_of()
    before = state(pipeline)
    out = pipeline.events(purchase(1, T0).slice(0, 0))
    assert out.predictions is None
    none = LabelBatch([], [], [], np.empty(0), np.empty(0, np.bool_), np.empty(0))
    assert pipeline.labels(none).examples == []
    assert state(pipeline) == before


def test_extreme_but_valid_values_are_scored() -> None:
    """The wire accepts any finite number; whatever comes, scores stay probabilities and features finite."""
    pipeline = pipeline_of()
    for number, amount in enumerate([0.0, 1e12, 5e-324, 1e12, 0.0, 1e300, 1.7e308, 1.7e308, -1.7e308, 1e-300, 3.0] * 3):
        out = pipeline.events(purchase(number, T0 + 60 * number, amount=amount))
        assert out.predictions is not None
        assert 0.0 <= out.predictions.score[0] <= 1.0
        assert np.isfinite(out.predictions.features).all()
        pipeline.labels(label(number, number, number % 3 == 0))


@pytest.mark.parametrize("kind", ["logistic", "bayesian_logistic", "boosted", "adaptive_tree", "adaptive_forest"])
def test_no_value_makes_numpy_warn(kind: str) -> None:
    """Warnings are errors here; on a user's terminal they would be lines of source."""
    params = "params = { every = 20, buffer = 60 }" if kind == "boosted" else ""
    pipeline = pipeline_of(FRAUD.replace('kind = "logistic"\nparams = { lr = 0.3 }', f'kind = "{kind}"\n{params}'))
    odd = (3.4e38, -3.4e38, 1.7976931348623157e308, np.inf, -np.inf, np.nan, 1e16, -1e15, 9e36, 5e-324, 0.0, -30.0)
    for number in range(240):
        amount = odd[number // 2 % len(odd)] if number % 2 and number > 60 else 10.0 + number % 7
        out = pipeline.events(purchase(number, T0 + 60 * number, amount=amount))
        assert out.predictions is not None
        assert 0.0 <= out.predictions.score[0] <= 1.0
        pipeline.labels(label(number, number, number % 3 == 0))
    assert pipeline.engine.readings.taken["amount"] > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('ops = ["count"], windows = ["1d"], where', 'ops = ["count"], windows = ["2d", "1d"], where'),
        ('kind = "logistic"\nparams = { lr = 0.3 }', 'kind = "adaptive_tree"'),
        ('[drift]', '[labels.silence]\nobserve_s = "1h"\nhorizon_s = "1h"\n[drift]'),
        ("min_labels = 3\n", "bins = 64\n"),
    ],
    ids=["features", "model", "timers", "threshold"],
)  # fmt: skip
def test_the_state_of_another_task_is_refused(old: str, new: str) -> None:
    pipeline = pipeline_of()
    run(pipeline, script(30, 1))
    assert old in FRAUD
    other = pipeline_of(FRAUD.replace(old, new))
    with pytest.raises(StateError, match=r"task fraud: .*start with a fresh directory"):
        other.restore(pipeline.snapshot())


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x80", b"\x81\xa5model\x90", b"text"])
def test_what_is_no_state_is_refused(damage: bytes) -> None:
    with pytest.raises(StateError, match="task fraud"):
        pipeline_of().restore(damage)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('entity = "user"\n', 'entity = "user"\nwatch = ["amont"]\n', "watch: no numeric column 'amont'; there are"),
        ('entity = "user"\n', 'entity = "user"\nwatch = ["channel"]\n', "watch: no numeric column 'channel'"),
        ('entity = "user"\n', 'entity = "user"\ninputs = ["nothing.*"]\n', "'nothing.\\*' matches no numeric column"),
        ('kind = "logistic"', 'kind = "forest"', r"\[model\]: unknown learner kind 'forest'; did you mean"),
        ("{ lr = 0.3 }", "{ speed = 1 }", r"\[model\]: learner 'logistic' has no parameter speed; did you mean 'seed'"),
        ("{ lr = 0.3 }", '{ lr = "fast" }', r"task fraud: \[model\]: "),
        ('"ratio < 3"', '"ratio <"', "expression 'ratio <'"),
        ('"ratio < 3"', '"user.amont_mean_1d > 1"', "'user.amont_mean_1d': no aggregate makes this"),
        ('name = "amount", value', f'name = "{"a" * 48}", value', "has 65 characters, the limit is 64; shorten"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_run_is_refused_before_the_first_event(old: str, new: str, message: str) -> None:
    assert old in FRAUD
    toml = FRAUD.replace(old, new, 1)
    if "aaa" in new:
        toml = toml.replace("user.amount_ewmean", f"user.{'a' * 48}_ewmean").replace("since_last", "over_ewmean")
    with pytest.raises(TaskError, match=message):
        pipeline_of(toml)
