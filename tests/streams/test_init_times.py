"""``weir init`` on times: zones, orders of day and month, when a label was known, and odd columns of times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.streams import awkward_tables as awkward
from tests.streams.awkward_tables import N, Rows, rows
from tests.streams.drafted_tasks import drafted, written
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.offline.init import _told
from weir.streams.errors import UsageError
from weir.streams.workbench.profile.doubts import doubts_of


@pytest.mark.parametrize(
    ("ends", "asked"), [(["Z", "+02:00", " +0100"], False), (["Z", "Z", ""], True), (["", "", ""], True)]
)
def test_the_time_zone_is_asked_where_any_time_has_no_offset(tmp_path: Path, ends: list[str], *, asked: bool) -> None:
    at = [f"{awkward.START + timedelta(minutes=10 * i):%Y-%m-%dT%H:%M:%S}{ends[i % 3]}" for i in range(N)]
    assert ("time_zone" in drafted(written(tmp_path, rows() | {"time": at}))[0].plan.guesses) == asked


def test_all_times_are_read_in_the_zone_that_a_person_answers(tmp_path: Path) -> None:
    """A label that is known soon after its event: the one is told in UTC, the other by the clock on the wall."""
    at = [awkward.START + timedelta(minutes=10 * i) for i in range(N)]
    table = rows() | {
        "time": [f"{t + timedelta(hours=1):%Y-%m-%d %H:%M:%S}" for t in at],  # Berlin in winter
        "label_known_at": [f"{t + timedelta(minutes=15):%Y-%m-%dT%H:%M:%SZ}" for t in at],
    }

    def say(question: str, guess: str, _: Sequence[str]) -> str:
        return "Europe/Berlin" if question.startswith("Of which time zone") else guess

    draft, task = drafted(written(tmp_path, table), say)
    assert task.source is not None
    assert (task.source.time_zone, task.source.label_known) == ("Europe/Berlin", "label_known_at")
    assert draft.plan.ts[0] == at[0].replace(tzinfo=UTC).timestamp()
    with pytest.raises(UsageError, match="time zone: 'Mars/Olympus' is no time zone; give a name such as"):
        drafted(written(tmp_path, table), lambda question, guess, _: "Mars/Olympus" if "zone" in question else guess)


def test_day_and_month_are_read_as_a_person_answers_in_every_column_of_times(tmp_path: Path) -> None:
    days = [datetime(2024, 1 + i % 12, 1 + i // 12 % 9, tzinfo=UTC) for i in range(N)]
    table = rows() | {
        "time": [f"{t:%m/%d/%Y}" for t in days],
        "label_known_at": [f"{t + timedelta(days=3):%m/%d/%Y}" for t in days],
    }

    def say(question: str, guess: str, answers: Sequence[str]) -> str:
        return next(a for a in answers if a != guess) if question.startswith("Nothing tells") else guess

    plan = drafted(written(tmp_path, table), say)[0].plan
    assert plan.time is not None
    assert plan.label is not None
    assert plan.label.known is not None
    assert plan.label.known.time_format == plan.time.time_format == "%m/%d/%Y"
    np.testing.assert_array_equal(plan.label.known.times, plan.ts + 3 * 86_400.0)


def test_a_year_behind_a_day_is_no_offset(tmp_path: Path) -> None:
    days = [f"{awkward.START + timedelta(days=i):%d-%m-%Y}" for i in range(N)]
    assert "time_zone" in drafted(written(tmp_path, rows() | {"time": days}))[0].plan.guesses


def test_the_other_order_of_day_and_month_is_read_when_a_person_says_so(tmp_path: Path) -> None:
    def days(question: str, guess: str, answers: Sequence[str]) -> str:
        return "day" if "day" in answers else guess

    paths = awkward.day_or_month(tmp_path)
    told = [drafted(paths, ask) for ask in (None, days)]
    formats = [task.source.time_format for _, task in told if task.source is not None]
    assert formats == ["%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"]
    for (draft, _), form in zip(told, formats, strict=True):
        time = draft.plan.time
        assert time is not None
        assert time.name not in draft.plan.left, "the time itself is no second time"
        read = [datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() for text in time.texts.to_pylist()]
        assert draft.plan.ts.tolist() == read, "spans and windows are those of the order that was chosen"


@pytest.mark.parametrize("mark", [".", ","])
def test_the_day_numbers_of_a_spreadsheet_are_told_as_what_they_may_be(tmp_path: Path, mark: str) -> None:
    """Not taken for a number of the event, while rows follow each other and labels are known at once."""
    at = [awkward.START + timedelta(minutes=10 * i) for i in range(N)]
    days = [f"{(t - datetime(1899, 12, 30, tzinfo=UTC)) / timedelta(days=1):.8f}".replace(".", mark) for t in at]
    path = tmp_path / "payments.csv"
    path.write_text(awkward.csv(rows() | {"time": days}, ";"))
    draft, _ = drafted([path])
    assert "time" not in draft.plan.numbers
    assert f"none, though 'time' looks like it: {days[0]!r} may be a spreadsheet's" in draft.plan.guesses["time"]


@pytest.mark.parametrize("step_s", [1, 3600, 86_400, 2 * 86_400])
def test_a_column_that_only_counts_time_is_left_out(tmp_path: Path, step_s: int) -> None:
    """Seconds, hours and days since the first row; a number that also rises, but with the customer, is kept."""
    table = rows()
    at = [datetime.fromisoformat(each).timestamp() for each in table["time"]]
    table["COUNTED"] = [int(t - at[0]) // step_s for t in at]
    table["orders"] = [
        10 * int(who[1:]) + int(t - at[0]) // 86_400 for who, t in zip(table["customer"], at, strict=True)
    ]
    plan = drafted(written(tmp_path, table))[0].plan
    assert plan.left == {"COUNTED": "it tells the time only"}
    assert "orders" in plan.numbers


@pytest.mark.parametrize(
    ("every_min", "count", "inputs"),
    [(90, 600, {"hour", "weekday"}), (90, 150, {"hour"}), (1440, 240, {"weekday"}), (20, 100, set())],
)
def test_the_clock_is_an_input_where_it_is_more_than_another_name_of_a_date(
    tmp_path: Path, every_min: int, count: int, inputs: set[str]
) -> None:
    table = rows(count)
    table["time"] = [(awkward.START + timedelta(minutes=every_min * k)).isoformat() for k in range(count)]
    _, task = drafted(written(tmp_path, table))
    assert {*(task.inputs or ())} & {"hour", "weekday"} == inputs


@pytest.mark.parametrize("form", ["times", "days", "other days"])
def test_a_date_or_nothing_is_a_label_that_says_when_it_was_known(tmp_path: Path, form: str) -> None:
    """Not before that date, and what has none is a 0 only when nearly all dates would have come."""
    table, late = rows(600), timedelta(hours=30)
    at = [datetime.fromisoformat(t) for t in table["time"]]
    write: dict[str, Callable[[datetime], str]] = {
        "times": lambda t: t.isoformat(),
        "days": lambda t: f"{t:%Y-%m-%d}",
        "other days": lambda t: f"{t:%d.%m.%y}",
    }
    table["chargeback_on"] = [write[form](t + late) if bad else "" for t, bad in zip(at, table["fraud"], strict=True)]
    bad = table.pop("fraud")
    draft, task = drafted(paths := written(tmp_path, table | {"updated_at": table["chargeback_on"]}))
    assert task.labels.silence is None
    assert draft.plan.left["updated_at"] == "a time after the event's own"
    assert task.source is not None
    assert (task.source.label, task.source.positive) == ("chargeback_on", ("*",))
    assert not [check for check in doubts_of(task, paths) if check.status == "FAIL"]
    result = run_backtest(
        TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths, keep=Keep(outcomes=True)
    )
    assert result.outcomes is not None
    wait_s = task.labels.join.negative_after_s or task.source.label_delay
    assert 29 * 3600 < wait_s <= 3 * 86_400
    old = result.outcomes.ts < result.outcomes.ts.max() - wait_s - 3600
    assert np.array_equal(result.outcomes.label[old], np.array(bad)[old])
    known = result.outcomes.known_at - result.outcomes.ts
    assert np.nanmin(known[result.outcomes.label == 1]) >= 6 * 3600  # a day's beginning, of an event before noon
    assert np.nanmin(known[result.outcomes.label == 0]) > wait_s - 6 * 3600  # the join says when the row before came


def test_data_that_is_too_short_for_its_dates_says_so(tmp_path: Path) -> None:
    """The dates of a few weeks that come up to two months later are corrections of zeros, not contradictions."""
    table, span = rows(600), timedelta(hours=600)
    at = [datetime.fromisoformat(t) for t in table["time"]]
    table["chargeback_on"] = [
        f"{t + span * (0.1 + i % 10 / 10)}" if bad else ""
        for i, (t, bad) in enumerate(zip(at, table.pop("fraud"), strict=True))
    ]
    draft, task = drafted(paths := written(tmp_path, table))
    assert "the data is too short for more, and " in draft.plan.guesses["label_delay"]
    assert task.labels.join.negative_after_s is not None
    notes = run_backtest(TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths).notes
    (note,) = [note for note in notes if note.kind == "labels contradict"]
    assert "had been taken for a 0" in note.what
    assert note.fix.startswith("raise negative_after_s")


def dated(nothing: object, write: Callable[[datetime], object]) -> Rows:
    """Payments of which the bad ones have a date of a chargeback two days later, all others ``nothing``."""
    table = rows(600)
    bad, late = table.pop("fraud"), timedelta(days=2)
    at = [datetime.fromisoformat(t) for t in table["time"]]
    return table | {"chargeback_at": [write(t + late) if y else nothing for t, y in zip(at, bad, strict=True)]}


@pytest.mark.parametrize("per_s", [1, 1000])
def test_a_label_may_be_a_number_that_is_a_time(tmp_path: Path, per_s: int) -> None:
    draft, task = drafted(paths := written(tmp_path, dated("", lambda t: int(t.timestamp() * per_s))))
    assert task.source is not None
    assert (task.source.label, task.source.label_known) == ("chargeback_at", "chargeback_at")
    text = draft.text.replace('kind = "auto"', 'kind = "logistic"')
    outcomes = run_backtest(TaskSpec.from_toml(text), paths, keep=Keep(outcomes=True)).outcomes
    assert outcomes is not None
    positive = outcomes.label == 1
    assert positive.sum() > 50
    assert (outcomes.known_at - outcomes.ts)[positive].min() >= 2 * 86_400


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])
@pytest.mark.parametrize("late_h", [30, 48, 96])
def test_dates_that_all_come_as_late_as_each_other_come_before_the_zero(tmp_path: Path, form: str, late_h: int) -> None:
    """An event that was a 0 for a moment is learned as one."""
    table = rows(900)
    bad, late = table.pop("fraud"), timedelta(hours=late_h)
    at = [datetime.fromisoformat(t) for t in table["time"]]
    table["time"] = [f"{t:{form}}" for t in at]
    table["chargeback_on"] = [f"{t + late:{form}}" if y else "" for t, y in zip(at, bad, strict=True)]
    draft, _ = drafted(paths := written(tmp_path, table))
    result = run_backtest(TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths)
    assert result.pipeline.joiner.stats.joined > 50
    assert result.pipeline.joiner.stats.corrections == 0


@pytest.mark.parametrize("nothing", ["-", "0000-00-00", "1970-01-01", "9999-12-31", "never", 0])
def test_a_later_time_with_a_word_for_none_is_no_input(tmp_path: Path, nothing: str | int) -> None:
    def write(t: datetime) -> object:
        return int(t.timestamp()) if nothing == 0 else f"{t:%Y-%m-%d}"

    draft, _ = drafted(written(tmp_path, dated(nothing, write)))
    assert "leave that empty" in draft.plan.left["chargeback_at"]


def test_a_later_time_of_another_name_is_told_as_a_label_to_be(tmp_path: Path) -> None:
    table = rows()
    table["updated_at"] = [
        t if bad else "" for t, bad in zip([*table["time"][1:], ""], table.pop("fraud"), strict=True)
    ]
    draft, _ = drafted(written(tmp_path, table))
    assert "is it the label?" in (why := draft.plan.left["updated_at"])
    assert f"left out: updated_at: {why}\n" in draft.text


def test_a_day_and_a_time_of_day_are_told_to_be_one_time(tmp_path: Path) -> None:
    table = rows()
    at = [datetime.fromisoformat(t) for t in table.pop("time")]
    split = {"day": [f"{t:%d.%m.%Y}" for t in at], "clock": [f"{t:%H:%M}" for t in at]}
    draft, _ = drafted(written(tmp_path, split | table))
    assert "join it with 'day'" in draft.plan.left["clock"]
    assert "time = \"day\"  # 'clock' may be the time of these days" in draft.text
    assert any("time of these days" in line for line in _told(draft, Path("x.toml")))


def test_a_column_of_times_of_which_some_are_none_is_told(tmp_path: Path) -> None:
    table = rows()
    table["time"][4::5] = ["soon"] * len(table["time"][4::5])
    draft, _ = drafted(written(tmp_path, table))
    assert draft.plan.time is None
    assert "most of its values are times, and others, as 'soon', are not" in draft.plan.left["time"]
    assert "'time' looks like it" in draft.plan.guesses["time"]


@pytest.mark.parametrize(("name", "words"), [("fraud", ("1", "0")), ("Retoure", ("ja", "nein"))])
def test_a_label_is_not_known_before_the_date_that_only_ones_have(
    tmp_path: Path, name: str, words: tuple[str, str]
) -> None:
    """The date also tells that the column is the label, in whatever language it is called."""
    table = dated("", lambda t: t.isoformat())
    table[name] = [words[0] if at else words[1] for at in table["chargeback_at"]]
    table["when_it_was"] = table.pop("chargeback_at")
    draft, task = drafted(paths := written(tmp_path, table))
    assert task.source is not None
    assert (task.source.label, task.source.label_known) == (name, "when_it_was")
    assert "guessed: label_delay: a guess: nearly all dates come sooner" in [*_told(draft, Path("x.toml"))]
    assert not [check for check in doubts_of(task, paths) if check.status == "FAIL"]
    endless = TaskSpec.from_toml(re.sub("(negative_after_s|maturity) = .*", "", draft.text))
    (labels,) = [check for check in doubts_of(endless, paths) if check.name == "labels"]
    assert labels.fix == "No 0 has a time in 'when_it_was': say in [labels.join] negative_after_s when one is a 0."
    text = draft.text.replace('kind = "auto"', 'kind = "logistic"')
    outcomes = run_backtest(TaskSpec.from_toml(text), paths, keep=Keep(outcomes=True)).outcomes
    assert outcomes is not None
    late = (outcomes.known_at - outcomes.ts)[outcomes.label == 1]
    assert len(late) > 50
    assert late.min() >= 2 * 86_400
    assert 0 in outcomes.label
