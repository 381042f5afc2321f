"""Reasons: which contributions are told, what the sentences say, and what is usual."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.decisions.reasons import ReasonPolicy, ReasonWriter
from weir.online.decisions.typical import TypicalValues
from weir.online.errors import StateError, TaskError
from weir.online.task.reason_subjects import subjects_of
from weir.online.task.spec import TaskSpec

DAY = 86400.0


def say(feature: str, value: float, typical: float = math.nan, **more: float) -> str:
    """The sentence for one feature beside ``more`` other columns."""
    features = (feature, *more)
    writer = ReasonWriter(features, ReasonPolicy(positive="fraud"), entity="user")
    values, contributions = np.array([[value, *more.values()]]), np.zeros((1, len(features)))
    contributions[0, 0] = 1.0
    usual = np.array([typical, *[math.nan] * len(more)])
    ((reason,),) = writer.write(values, contributions, usual)
    assert (reason.feature, reason.contribution) == (feature, 1.0)
    return reason.text


@pytest.mark.parametrize(
    ("feature", "value", "typical", "text"),
    [
        ("user.amount_count_1h", 17.0, 2.0, "17 events in 1 h (usually 2)"),
        ("user.amount_count_1h", 1.0, 1.0, "1 event in 1 h"),
        ("user.logins_count_1d", 5.0, math.nan, "5 logins in 1 d"),
        ("user.night_count_7d", 5.0, 0.0, "5 night events in 7 d (usually 0)"),
        ("merchant.amount_count_1h", 9.0, math.nan, "9 events of this merchant in 1 h"),
        ("user.amount_mean_30d", 120.5, 45.0, "this user's 30-day mean amount is 120.50 (usually 45.00)"),
        ("user.amount_sum_1d", 1234.5, math.nan, "this user's 1-day total amount is 1,234.50"),
        ("user.amount_over_mean_30d", 8.34, 1.0, "amount is 8.3x this user's 30-day mean"),
        ("user.amount_over_ewmean", 3.0, 1.0, "amount is 3.0x this user's running mean"),
        ("user.since_last", 200.0, 2 * DAY, "3.3 min since this user's last event (usually 2 d)"),
        ("user.logins_since_last", 4.0, math.nan, "4 s since this user's last login"),
        ("merchant.risk_positives_7d", 3.0, 0.0, "3 frauds became known at this merchant in 7 d (usually 0)"),
        ("merchant.risk_positives_7d", 1.0, math.nan, "1 fraud became known at this merchant in 7 d"),
        (
            "merchant.risk_share_7d",
            0.25,
            0.01,
            "25 % of labels that became known at this merchant in 7 d are frauds (usually 1 %)",
        ),
        ("card.country_distinct_1d", 4.0, 1.0, "about 4 different countries of this card in 1 d (usually 1)"),
        ("user.risk_since_first_positive", 3 * DAY, math.nan, "3 d since this user's first fraud became known"),
        ("device.temperature_std_6h", 1.234, 0.2, "this device's 6-hour spread of temperature is 1.23 (usually 0.2)"),
        ("amount", 512.0, 40.0, "amount is 512.00 (usually 40.00)"),
        ("hour", 3.2, 14.0, "at 03:12"),
        ("night", 1.0, 0.0, "at night"),
        ("night", 0.0, 0.0, "not at night"),
        ("weekend", 1.0, 0.0, "on a weekend"),
        ("weekday", 0.0, 3.0, "on a Monday"),
        ("amount_missing", 1.0, 0.0, "amount is missing"),
        ("user.amount_30d_missing", 1.0, 0.0, "no earlier amount known of this user in 30 d"),
        ("entropy_z", 7.5, math.nan, "entropy z is 7.5"),
        ("ts", 1.7e9, math.nan, "on 2023-11-14T22:13:20"),
    ],
)
def test_sentences(feature: str, value: float, typical: float, text: str) -> None:
    assert say(feature, value, typical) == text


def test_a_ratio_names_the_amount_when_the_row_has_it() -> None:
    assert say("user.amount_over_mean_30d", 8.3, amount=512.0) == "amount 512.00 is 8.3x this user's 30-day mean"


def test_a_missing_value_is_not_told_as_zero() -> None:
    features = ("user.amount_mean_30d", "user.amount_30d_missing")
    ((reason,),) = ReasonWriter(features).write(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
    assert reason.text == "no earlier amount known of this user in 30 d"
    ((reason,),) = ReasonWriter(("amount",)).write(np.array([[math.nan]]), np.array([[1.0]]))
    assert (reason.value, reason.text) == (0.0, "amount is missing")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -0.1, 0.0, 0.01, 0.3, 0.3, 1.0, 5.0]), min_size=1, max_size=8), st.integers(1, 5)
)
def test_only_the_largest_positive_contributions_are_told(contributions: list[float], top: int) -> None:
    names = tuple(f"f{(i * 7) % 11}" for i in range(len(contributions)))
    policy = ReasonPolicy(top=top)
    (reasons,) = ReasonWriter(names, policy).write(np.ones((1, len(names))), np.array([contributions]))
    total = sum(c for c in contributions if c > 0)
    worthy = [(-c, n) for n, c in zip(names, contributions, strict=True) if c > 0.0 and c >= max(0.05, 0.05 * total)]
    assert [(-r.contribution, r.feature) for r in reasons] == sorted(worthy)[:top]


def test_templates_replace_sentences_exact_names_before_globs() -> None:
    templates = {
        "*_count_*": "{entity}: {value} against {typical}",
        "user.tx_count_1d": "busy: {value:.1f}",
    }
    features = ("user.amount_count_1h", "user.tx_count_1d")
    writer = ReasonWriter(features, templates=templates)
    (reasons,) = writer.write(np.array([[17.0, 20.0]]), np.array([[2.0, 1.0]]), np.array([2.0, math.nan]))
    assert [r.text for r in reasons] == ["user: 17 against 2", "busy: 20.0"]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ({"nothing": "x"}, "matches no feature; there are amount"),
        ({"amount": "{price}"}, r"has \{price\}"),
        ({"amount": "{}"}, "only {value}"),
        ({"amount": "{value:.2q}"}, "cannot be used"),
        ({"amount": "{value"}, "cannot be used"),
        ({"amount": "{value:{}}"}, "holds a field; write it out"),
        ({"amount": "{value:{price}}"}, "holds a field; write it out"),
        ({"amount": "{value:{typical}}"}, "holds a field; write it out"),
    ],
)
def test_a_wrong_template_is_refused_by_name(templates: dict[str, str], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        ReasonWriter(("amount",), templates=templates)


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="one column for each feature"):
        ReasonWriter(("amount",)).write(np.ones((1, 2)), np.ones((1, 2)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-10, 10), st.just(math.nan)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 7),
    st.sets(st.integers(1, 59)),
)
def test_usual_is_the_median_of_the_regular_sample(values: list[float], every: int, size: int, cuts: set[int]) -> None:
    usual = TypicalValues(("a", "a_missing"), every, size)
    x = np.column_stack([np.nan_to_num(values) + 0.0, np.isnan(values)]).astype(np.float64).reshape(-1, 2)
    edges = [0, *sorted(c for c in cuts if c < len(values)), len(values)]
    for start, end in itertools.pairwise(edges):
        usual.update(x[start:end])
        state, usual = usual.snapshot(), TypicalValues(usual.features, every, size)
        usual.restore(state)
    sampled = values[::every]
    counted = max((n for n in (0, 1, 2, 4, 8, 16, 32, 48, 64) if n <= len(sampled)), default=0)
    known = [v for v in sampled[:counted][-size:] if not math.isnan(v)]
    expected = np.median(known) if known else math.nan
    assert usual.values()[0] == pytest.approx(expected, nan_ok=True)


def test_usual_values_of_before_go_on() -> None:
    """Their ring holds all that was sampled; nothing waits."""
    rng = np.random.default_rng(1)
    x = rng.random((1_000, 2))
    straight, resumed = (TypicalValues(("a", "b"), every=1, size=64) for _ in range(2))
    straight.update(x[:500])
    features, rows, _, _ = msgspec.msgpack.decode(straight.snapshot())
    ring = np.roll(x[500 - 64 : 500], 500 % 64, axis=0)
    resumed.restore(msgspec.msgpack.encode([features, rows, ring.tobytes()]))
    for usual in (straight, resumed):
        usual.update(x[500:])
    assert resumed.snapshot() == straight.snapshot()
    assert np.array_equal(resumed.values(), np.median(x[992 - 64 : 992], axis=0))


def test_usual_values_know_the_shared_indicator_of_a_window() -> None:
    usual = TypicalValues(("user.amount_mean_30d", "user.amount_count_30d", "user.amount_30d_missing"), every=1)
    usual.update(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [9.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    assert usual.values().tolist() == [9.0, 0.0, 1.0]
    with pytest.raises(StateError, match="other features"):
        TypicalValues(("b",)).restore(usual.snapshot())


def counted(contributions: tuple[float, ...], values: tuple[float, ...]) -> list[tuple[str, float]]:
    names = ("user.visits_count_1h", "user.visits_count_1d", "user.visits_count_7d", "amount")
    writer = ReasonWriter(names, ReasonPolicy(top=3))
    (reasons,) = writer.write(np.array([values]), np.array([contributions]))
    return [(reason.text, round(reason.contribution, 9)) for reason in reasons]


def test_windows_of_one_count_are_one_reason_the_one_that_says_most() -> None:
    """What the windows added together counts; of equal values the shortest says most, of none the longest."""
    assert counted((0.4, 0.9, 0.5, 0.2), (3.0, 3.0, 8.0, 5.0)) == [("3 visits in 1 h", 1.8), ("amount is 5.00", 0.2)]
    assert counted((0.4, 0.1, 0.2, 0.0), (0.0, 0.0, 2.0, 5.0)) == [("0 visits in 1 d", 0.7)]
    assert counted((0.9, -0.5, -0.5, 0.2), (3.0, 3.0, 8.0, 5.0)) == [("amount is 5.00", 0.2)]


def test_what_is_missing_is_one_reason_the_one_that_says_most() -> None:
    names = ("user.amount_mean_1d", "user.amount_max_7d", "user.amount_last", "shop.risk_share_7d")
    (reasons,) = ReasonWriter(names, ReasonPolicy(top=4)).write(np.array([[-0.0, -0.0, 0.0, -0.0]]), np.ones((1, 4)))
    assert {reason.text for reason in reasons} == {
        "no earlier amount known of this user in 7 d",
        "this user's last amount is 0.00",
        "no label became known at this shop in 7 d",
    }


def test_what_holds_for_many_is_told_after_what_does_not() -> None:
    usual, writer = TypicalValues(("night", "amount"), every=1), ReasonWriter(("night", "amount"))
    usual.update(np.array([[0.0, float(k)] for k in range(100)]))
    x, added = np.array([[0.0, 97.0], [0.0, 50.0], [1.0, 50.0]]), np.array([[2.0, 0.3]] * 3)
    told = writer.write(x, added, usual.values(), usual.shares(x))
    assert [[reason.feature for reason in reasons] for reasons in told] == [
        ["amount", "night"],
        ["night", "amount"],
        ["night", "amount"],
    ]


def task_with(values: dict[str, str], model: Mapping[str, object], inputs: list[str]) -> TaskSpec:
    machine = {
        "name": "machine",
        "key": "device_id",
        "aggregates": [{"name": "readings", "ops": ["count", "since_last"], "windows": ["1d"]}],
        "anomalies": [{"name": "heat", "value": "temperature"}, {"name": "shake", "value": "vibration"}],
    }
    document = {"name": "t", "stream": "device-events", "entity": "machine", "entities": [machine]}
    return TaskSpec.model_validate(document | {"values": values, "model": model, "inputs": inputs})


def told_of(task: TaskSpec, **values: float) -> str:
    writer = ReasonWriter(tuple(values), entity="machine", subjects=subjects_of(task))
    ((reason,),) = writer.write(np.array([[*values.values()]]), np.eye(1, len(values)))
    return reason.text


def test_a_score_that_is_a_column_tells_what_is_behind_it() -> None:
    odd, column = {"odd": "max(machine.heat, machine.shake)"}, {"kind": "column", "params": {"column": "odd"}}
    both = {"machine.heat": 0.2, "machine.shake": 0.978}
    task = task_with(odd, column, ["odd", "machine.*"])
    says = "the detector's score is 0.978"
    assert told_of(task, odd=0.978) == says
    writer = ReasonWriter(("odd", "hour"), entity="machine", subjects=subjects_of(task))
    ((low,),) = writer.write(np.array([[0.4, 3.0]]), np.array([[-0.41, 0.0]]))  # of a threshold of .3
    assert low.text == "the detector's score is 0.4"
    assert told_of(task, odd=0.978, **both) == (f"{says}: this machine's vibration has an anomaly score of 0.978 of 1")
    one = {"kind": "column", "params": {"column": "machine.heat"}}
    assert told_of(task_with({}, one, ["machine.*"]), **{"machine.heat": 0.9, "machine.heat_level": 2.0}) == (
        "this machine's temperature has an anomaly score of 0.9 of 1: "
        "the level of this machine's temperature surprises by 8.0 standard deviations"
    )


def test_a_value_is_told_in_its_unit_and_as_what_it_is_made_of() -> None:
    values = {
        "quiet": "or_else(machine.readings_since_last, 0)",
        "days": "log1p(machine.readings_since_last / 86400)",
        "busy": "log1p(machine.readings_count_1d)",
        "hot": "temperature > 70",
        "jump": "temperature - 20",
    }
    task = task_with(values, {"kind": "logistic"}, ["*"])
    assert told_of(task, quiet=7200.0) == "quiet is 2 h"
    assert told_of(task, days=math.log1p(2.0)) == "2 d since this machine's last reading"
    assert told_of(task, busy=math.log1p(1.0)) == "1 reading in 1 d"
    assert [told_of(task, hot=1.0), told_of(task, hot=0.0)] == ["hot", "not hot"]
    assert told_of(task, jump=3.0) == "jump is 3"
    assert told_of(task, days=-0.0) == "days is missing"


def test_a_state_names_the_sensor_that_is_off_and_by_how_much() -> None:
    state = {"name": "state", "score": "state", "values": ["flow", "pressure"]}
    machine = {"name": "machine", "key": "device_id", "anomalies": [state]}
    model = {"kind": "column", "params": {"column": "machine.state"}}
    document = {
        "name": "t",
        "stream": "device-events",
        "entity": "machine",
        "entities": [machine],
        "inputs": ["machine.*"],
    }
    task = TaskSpec.model_validate(document | {"model": model})
    told = {
        "": (0.998, "this machine is farther from its reference than over 99 % of the reference itself"),
        "distance": (7.5, "this machine is 7.5 usual deviations from its reference"),
        "sensor": (2.0, "this machine's pressure is what is farthest from its reference"),
        "view": (2.0, "it is the level of one sensor given the others that is farthest from this machine's reference"),
        "expected": (3.5, "3.5 was expected of this machine's sensor that is farthest off"),
        "part_flow": (0.3, "this machine's flow makes 30 % of its distance from its reference"),
        "part_pressure": (0.7, "this machine's pressure makes 70 % of its distance from its reference"),
        "off_flow": (9.0, "this machine's flow is 9 above its usual level"),
        "off_pressure": (-0.5, "this machine's pressure is 0.5 below its usual level"),
        "implied_flow": (9.5, "this machine's flow is 9.5 above what pressure implies"),
        "implied_pressure": (-3.1, "this machine's pressure is 3.1 below what flow implies"),
        "rough_flow": (0.1, "this machine's flow moves 0.1x as much as usual from reading to reading"),
        "rough_pressure": (1.0, "this machine's pressure moves 1.0x as much as usual from reading to reading"),
    }
    detector = task.entities[0].anomalies[0]
    assert {*told} == {*detector.outputs}
    for output, (value, text) in told.items():
        assert told_of(task, **{detector.column("machine", output): value}) == text
    values = {detector.column("machine", output): value for output, (value, _) in told.items()}
    assert told_of(task, **values) == f"{told[''][1]}: {told['implied_pressure'][1]}"
    assert told_of(task, **{"machine.state_off_flow": -0.0}) == "no flow of this machine to judge by a reference"
