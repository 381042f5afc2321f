"""Every operation that a task file can name is told in a sentence that says what the number is, with its unit."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest

from weir.online.anomaly.layout import COMPONENTS
from weir.online.decisions.feature_name import indicator_of
from weir.online.decisions.operations import OPERATIONS
from weir.online.decisions.reasons import ReasonPolicy, ReasonWriter
from weir.online.features import spec
from weir.online.full_columns import seen_width
from weir.online.task.reason_subjects import subjects_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of

DAY = 86_400.0
EVENT_OPS = [*get_args(spec.WindowOp), *get_args(spec.GapOp), *get_args(spec.PlainOp)]
LABEL_OPS = [*get_args(spec.LabelWindowOp), *get_args(spec.LabelPlainOp), *get_args(spec.LabelRunOp)]
TASK = TaskSpec.model_validate(
    {
        "name": "t",
        "entity": "user",
        "model": {"kind": "logistic"},
        "inputs": ["amount", "entropy", "ts", "day", "hour", "weekday", "weekend", "night", "user.*", "shop.*"],
        "values": {"entropy": "log(amount)"},
        "entities": [
            {
                "name": "user",
                "key": "user_id",
                "aggregates": [
                    {"name": "paid", "value": "amount", "ops": EVENT_OPS, "windows": ["30d"]},
                    {"name": "life", "value": "amount", "ops": ["count", "mean", "rate"], "windows": ["ever", "10s"]},
                    {"name": "pace", "ops": ["gap_mean"]},
                    {"name": "busy", "ops": ["rate"], "windows": ["1h", "1d", "ever"], "ratios": ["1h/1d", "1d/ever"]},
                    {"name": "small", "where": "amount < 5", "ops": ["count", "since_last"], "windows": ["1h"]},
                ],
                "anomalies": [{"name": "heat", "value": "amount"}],
            },
            {
                "name": "shop",
                "key": "merchant_id",
                "labels": [
                    {"name": "risk", "value": "amount", "ops": LABEL_OPS, "windows": ["7d"]},
                    {"name": "quiet", "where": "amount < 5", "ops": LABEL_OPS[:-4], "windows": ["7d"]},
                ],
            },
        ],
        "full": {"embedding": 1},
    }
)
TOLD: dict[str, tuple[float, str]] = {
    "amount": (512.0, "amount is 512.00"),
    "entropy": (7.5, "amount is 1,808.04"),
    "ts": (1.7e9, "on 2023-11-14T22:13:20"),
    "day": (19_675.0, "on 2023-11-14"),
    "hour": (3.2, "at 03:12"),
    "weekday": (0.0, "on a Monday"),
    "weekend": (1.0, "on a weekend"),
    "night": (0.0, "not at night"),
    "user.paid_count_30d": (17.0, "17 events with amount in 30 d"),
    "user.paid_sum_30d": (1234.5, "this user's 30-day total paid is 1,234.50"),
    "user.paid_mean_30d": (120.5, "this user's 30-day mean paid is 120.50"),
    "user.paid_std_30d": (12.0, "this user's 30-day spread of paid is 12.00"),
    "user.paid_min_30d": (3.0, "this user's 30-day smallest paid is 3.00"),
    "user.paid_max_30d": (900.0, "this user's 30-day largest paid is 900.00"),
    "user.paid_distinct_30d": (4.0, "about 4 different paids of this user in 30 d"),
    "user.paid_over_mean_30d": (8.34, "paid 512.00 is 8.3x this user's 30-day mean"),
    "user.paid_rate_30d": (3.25, "3.25 events with amount a day in 30 d"),
    "user.paid_q50_30d": (45.0, "this user's 30-day median paid is 45.00"),
    "user.paid_q90_30d": (45.0, "this user's 30-day 90th percentile of paid is 45.00"),
    "user.paid_q99_30d": (45.0, "this user's 30-day 99th percentile of paid is 45.00"),
    "user.paid_gap_mean_30d": (7300.0, "this user's mean time from one event with amount to the next in 30 d is 2 h"),
    "user.paid_gap_std_30d": (
        7300.0,
        "the time from one event with amount of this user to the next in 30 d varies by 2 h",
    ),
    "user.paid_gap_trend_30d": (
        2.14,
        "the time from one event with amount of this user to the next in 30 d is lately 2.1x what it was",
    ),
    "user.life_count_ever": (17.0, "17 events with amount ever"),
    "user.life_count_10s": (17.0, "17 events with amount in 10 s"),
    "user.life_mean_ever": (17.0, "this user's all-time mean life is 17.00"),
    "user.life_mean_10s": (17.0, "this user's 10-second mean life is 17.00"),
    "user.life_rate_ever": (1.0, "1 event with amount a day ever"),
    "user.life_rate_10s": (2.0, "2 events with amount a day in 10 s"),
    "user.pace_gap_mean": (200.0, "this user's mean time from one event to the next is 3.3 min"),
    "user.busy_rate_1h": (3.0, "3 events a day in 1 h"),
    "user.busy_rate_1d": (3.0, "3 events a day in 1 d"),
    "user.busy_rate_ever": (3.0, "3 events a day ever"),
    "user.busy_rate_1h_over_1d": (2.31, "busy rate of this user in 1 h is 2.3x that in 1 d"),
    "user.busy_rate_1d_over_ever": (2.31, "busy rate of this user in 1 d is 2.3x that ever"),
    "user.paid_last": (3.0, "this user's last paid is 3.00"),
    "user.paid_since_last": (200.0, "3.3 min since this user's last event with amount"),
    "user.paid_since_first": (2 * DAY, "2 d since this user's first event with amount"),
    "user.paid_ewmean": (45.0, "this user's running mean paid is 45.00"),
    "user.paid_over_ewmean": (3.0, "paid 512.00 is 3.0x this user's running mean"),
    "user.small_count_1h": (1.0, "1 small event in 1 h"),
    "user.small_since_last": (4.0, "4 s since this user's last small event"),
    "user.heat": (0.97, "this user's amount has an anomaly score of 0.97 of 1"),
    "user.heat_level": (0.8, "the level of this user's amount surprises by 3.2 standard deviations"),
    "user.heat_change": (1.6, "the last step of this user's amount surprises by 3.2 standard deviations"),
    "user.heat_spread": (0.8, "the roughness of this user's amount surprises by 3.2 standard deviations"),
    "user.heat_seasonal": (
        4.8,
        "the distance from what is usual at this hour of this user's amount surprises by 3.2 standard deviations",
    ),
    "user.heat_pattern": (
        3.2,
        "the course over the last values of this user's amount surprises by 3.2 standard deviations",
    ),
    "user.heat_context": (
        3.2,
        "the course over a longer time of this user's amount surprises by 3.2 standard deviations",
    ),
    "user.heat_density": (0.8, "the rarity of this user's amount surprises by 3.2 standard deviations"),
    "user.heat_expected": (21.5, "this user's amount was expected to be 21.50"),
    "shop.risk_count_7d": (3.0, "3 labels became known at this shop in 7 d"),
    "shop.risk_positives_7d": (1.0, "1 fraud became known at this shop in 7 d"),
    "shop.risk_share_7d": (0.25, "25 % of labels that became known at this shop in 7 d are frauds"),
    "shop.risk_last": (0.0, "the last label known at this shop says no fraud"),
    "shop.risk_since_last": (2 * DAY, "2 d since a label of this shop became known"),
    "shop.risk_since_positive": (2 * DAY, "2 d since this shop's last fraud became known"),
    "shop.risk_since_first_positive": (2 * DAY, "2 d since this shop's first fraud became known"),
    "shop.risk_ewmean": (0.25, "25 % of labels at this shop are frauds, newer ones counting more"),
    "shop.risk_run_count": (3.0, "3 known frauds in a row at this shop"),
    "shop.risk_run_min": (5.2, "the smallest amount of known frauds in a row at this shop is 5.20"),
    "shop.risk_run_since_first": (2 * DAY, "known frauds in a row at this shop for 2 d"),
    "shop.risk_run_since_negative": (2 * DAY, "2 d since this shop's last event known to be no fraud"),
    "shop.quiet_count_7d": (3.0, "3 quiet labels became known at this shop in 7 d"),
    "shop.quiet_positives_7d": (3.0, "3 quiet frauds became known at this shop in 7 d"),
    "shop.quiet_share_7d": (0.25, "25 % of quiet labels that became known at this shop in 7 d are frauds"),
    "shop.quiet_last": (1.0, "the last quiet label known at this shop says fraud"),
    "shop.quiet_since_last": (2 * DAY, "2 d since a quiet label of this shop became known"),
    "shop.quiet_since_positive": (2 * DAY, "2 d since this shop's last quiet fraud became known"),
    "shop.quiet_since_first_positive": (2 * DAY, "2 d since this shop's first quiet fraud became known"),
    "shop.quiet_ewmean": (0.25, "25 % of quiet labels at this shop are frauds, newer ones counting more"),
    "full.logit": (2.0, "the full model gives fraud odds of 7.4 to 1"),
    "full.known": (1.0, "the full model answered"),
    "full.e0": (0.4, "the full model sees a pattern of events that raises the odds 2.7x"),
}
ABSENT = {
    "amount": "amount is missing",
    "entropy": "entropy is missing",
    "user.paid_30d": "no earlier paid known of this user in 30 d",
    "user.paid": "no earlier paid known of this user yet",
    "user.small": "no earlier small event known of this user yet",
    "user.heat": "no amount of this user to judge",
    "shop.risk_7d": "no label became known at this shop in 7 d",
    "user.paid_gap_mean_30d": "no time from one event with amount of this user to the next known in 30 d",
    "user.paid_gap_std_30d": "no time from one event with amount of this user to the next known in 30 d",
    "user.paid_gap_trend_30d": (
        "no change known of the time from one event with amount of this user to the next in 30 d"
    ),
    "user.life_ever": "no earlier life known of this user yet",
    "user.life_10s": "no earlier life known of this user in 10 s",
    "user.busy_rate_1h_over_1d": "busy rate of this user in 1 h cannot be compared with that in 1 d",
    "user.busy_rate_1d_over_ever": "busy rate of this user in 1 d cannot be compared with that ever",
    "user.pace_gap_mean": "no time from one event of this user to the next known yet",
    "shop.risk": "no label known at this shop yet",
    "shop.risk_since_positive": "no fraud known at this shop yet",
    "shop.risk_since_first_positive": "no fraud known at this shop yet",
    "shop.risk_run": "no run of known frauds at this shop",
    "shop.risk_run_since_negative": "no event of this shop known to be no fraud yet",
    "shop.quiet_7d": "no quiet label became known at this shop in 7 d",
    "shop.quiet": "no quiet label known at this shop yet",
    "shop.quiet_since_positive": "no quiet fraud known at this shop yet",
    "shop.quiet_since_first_positive": "no quiet fraud known at this shop yet",
}
FEATURES = shape_of(TASK).features
SEEN = FEATURES[: seen_width(FEATURES)]
WRITER = ReasonWriter(SEEN, ReasonPolicy(positive="fraud"), entity="user", subjects=subjects_of(TASK))


def say(**values: float) -> str:
    """The reason of the first of ``values``; columns that are not named are 0."""
    x, told = np.zeros((1, len(SEEN))), np.zeros((1, len(SEEN)))
    for name, value in values.items():
        x[0, SEEN.index(name)] = value
    told[0, SEEN.index(next(iter(values)))] = 1.0
    ((reason,),) = WRITER.write(x, told)
    return reason.text


def test_the_lists_below_hold_every_feature_of_a_task_that_names_every_operation() -> None:
    assert {name for name in SEEN if not name.endswith("_missing")} == {*TOLD}
    assert {name for name in SEEN if name.endswith("_missing")} == {f"{name}_missing" for name in ABSENT}
    assert {*OPERATIONS["anomaly"]} == {"", *COMPONENTS, "expected"}
    assert {*OPERATIONS["events"]} == {*EVENT_OPS, "over_window"}
    assert {*OPERATIONS["labels"]} == {*LABEL_OPS, "run"}


@pytest.mark.parametrize("name", TOLD)
def test_a_feature_is_told_as_what_it_is(name: str) -> None:
    value, text = TOLD[name]
    beside: dict[str, Any] = {"amount": 512.0} if "over" in name else {}
    assert say(**{name: value, **beside}) == text


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_missing_is_told_as_missing(name: str) -> None:
    assert say(**{f"{name}_missing": 1.0}) == ABSENT[name]
    known = say(**{f"{name}_missing": 0.0})
    assert "missing" not in known
    assert not known.startswith("no ")


def test_each_feature_that_can_be_missing_finds_its_indicator() -> None:
    columns = {name: k for k, name in enumerate(SEEN)}
    found = {indicator_of(name, columns) for name in WRITER._own}
    assert {SEEN[k] for k in found if k is not None} == {name for name in SEEN if name.endswith("_missing")}
    for name in ("shop.risk_run_min", "shop.risk_run_since_first", "user.heat_level"):
        stem = "shop.risk_run" if "run" in name else "user.heat"
        assert say(**{name: 0.0, f"{stem}_missing": 1.0}) == ABSENT[stem]


@pytest.mark.parametrize("name", [name for name in TOLD if name.endswith(("1d", "7d", "30d", "1h"))])
def test_a_window_is_named(name: str) -> None:
    count, unit = name.rpartition("_")[2][:-1], {"d": ("d", "day"), "h": ("h", "hour")}[name[-1]]
    assert f"{count} {unit[0]}" in TOLD[name][1] or f"{count}-{unit[1]}" in TOLD[name][1]


def test_an_amount_that_is_not_the_column_of_that_name_does_not_show_the_column() -> None:
    half = {"name": "amount", "value": "amount / 2", "ops": ["over_mean"], "windows": ["7d"]}
    entity = {"name": "user", "key": "user_id", "aggregates": [half]}
    task = {"name": "t", "entity": "user", "inputs": ["*"], "model": {"kind": "logistic"}, "entities": [entity]}
    names = ("user.amount_over_mean_7d", "amount")
    writer = ReasonWriter(names, subjects=subjects_of(TaskSpec.model_validate(task)))
    ((reason,),) = writer.write(np.array([[8.0, 512.0]]), np.array([[1.0, 0.0]]), np.full(2, math.nan))
    assert reason.text == "amount is 8.0x this user's 7-day mean"
