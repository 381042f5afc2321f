"""``weir init`` makes a task file of any table, and it runs; ``weir check`` says what is odd of a task and its data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.streams import awkward_tables as awkward
from tests.streams.awkward_tables import N, Rows, csv, rows
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.learners.factory import LearnerSpec
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.checks.findings import Check
from weir.streams.cli.main import app
from weir.streams.cli.offline.init import _told
from weir.streams.errors import UsageError
from weir.streams.workbench.profile.choices import Ask
from weir.streams.workbench.profile.doubts import doubts_of
from weir.streams.workbench.profile.draft import Draft, draft_task
from weir.streams.workbench.profile.sampled import samples_of

QUICK = '[model]\nkind = "logistic"'


def drafted(paths: Sequence[Path], ask: Ask = None) -> tuple[Draft, TaskSpec]:
    draft = draft_task(paths, "payments", ask)
    return draft, TaskSpec.from_toml(draft.text)


Drafts = Callable[[Callable[[Path], list[Path]]], Draft]


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    """The draft of an awkward table with every guess taken, made once for all tests."""
    return cache(lambda table: draft_task(table(tmp_path_factory.mktemp(table.__name__)), "payments"))


def written(folder: Path, table: Rows) -> list[Path]:
    (folder / "payments.csv").write_text(csv(table))
    return [folder / "payments.csv"]


@pytest.mark.parametrize("table", awkward.TABLES, ids=lambda table: table.__name__)
def test_a_task_file_of_an_awkward_table_runs(drafts: Drafts, table: Callable[[Path], list[Path]]) -> None:
    draft = drafts(table)
    text = draft.text.replace('[model]\nkind = "auto"', QUICK).replace("params = { lag = 0 }", "")  # as right, quicker
    task = TaskSpec.from_toml(text)
    result = run_backtest(task, draft.plan.sample.paths, None, keep=Keep(outcomes=True))
    assert (result.rejected, result.pipeline.scored) == (0, draft.plan.sample.rows)
    assert result.outcomes is not None
    alerted = result.outcomes.version[result.outcomes.alerted]
    assert task.model.kind == "column" or alerted.all()  # who has learned nothing alerts nobody


def test_parts_are_found_whatever_columns_are_called_and_however_they_are_written(drafts: Drafts) -> None:
    for table in (
        awkward.semicolons_and_commas, awkward.utf_16_and_tabs, awkward.epoch_milliseconds, awkward.unsorted,
        awkward.nested_json, awkward.parquet_kinds, awkward.two_files, awkward.ids_as_floats, awkward.odd_names,
    ):  # fmt: skip
        plan = drafts(table).plan
        assert plan.label is not None
        assert plan.time is not None
        assert plan.main is not None
        assert (plan.main.distinct, plan.positives) == (12, (sum(rows()["fraud"]), N)), table.__name__
        assert abs(plan.span_s - 13_500 * 60) < 86_400 * 2, table.__name__


def test_what_tells_the_label_is_left_out_with_the_reason(drafts: Drafts) -> None:
    draft = drafts(awkward.constants_and_leaks)
    task = TaskSpec.from_toml(draft.text)
    assert {*draft.plan.left} == {"currency", "empty", "betrag", "refunded", "fraud_scenario"}
    assert all(f"# left out: {name}: {why}" in draft.text for name, why in draft.plan.left.items())
    assert task.source is not None
    assert not {*task.source.columns.values()} & {*draft.plan.left}
    assert task.source.label_known == "closed_at"  # which only frauds have


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_a_column_is_left_out_just_where_it_separates_too_well(tmp_path: Path, share: float, seed: float) -> None:
    """The label itself with so many rows drawn anew: what is left out tells more than what is kept."""
    table, rng = rows(), np.random.default_rng(int(seed))
    y = np.array(table["fraud"])
    drawn = rng.random(N) < share
    copy = np.where(drawn, rng.integers(0, 2, N), y)
    good = (np.mean(copy[y == 1]) + 1 - np.mean(copy[y == 0])) / 2  # ROC AUC of a 0/1 column
    left = drafted(written(tmp_path, table | {"score": copy.tolist()}))[0].plan.left
    assert ("score" in left) == (max(good, 1 - good) >= 0.985)


def test_labels_that_are_known_later_say_how_long_predictions_wait(drafts: Drafts) -> None:
    draft = drafts(awkward.free_text_and_times_of_later)
    task = TaskSpec.from_toml(draft.text)
    assert task.source is not None
    assert task.source.label_known == "label_known_at"
    assert task.labels.join.keep_s > 41 * 86_400
    assert "label_delay" not in draft.text


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


def test_answers_are_taken(tmp_path: Path) -> None:
    answers = {"Which value": "ok", "How long": "2h", "Of which time zone": "Europe/Berlin"}
    paths = awkward.label_words(tmp_path)

    def say(question: str, guess: str, _: Sequence[str]) -> str:
        return next((answer for start, answer in answers.items() if question.startswith(start)), guess)

    draft, task = drafted(paths, say)
    source = task.source
    assert source is not None
    assert "guess" not in draft.text.split("\n", 2)[2]
    assert {*drafted(paths)[0].plan.guesses} == {"positive", "label_delay", "time_zone"}
    assert (source.positive, source.label_delay, source.time_zone) == (("ok",), 7200.0, "Europe/Berlin")
    answers["How long"] = "soon"
    with pytest.raises(UsageError, match="label delay: 'soon' is not a duration"):
        drafted(paths, say)


def claims(folder: Path, verdicts: tuple[str, str] = ("Betrug", "in Ordnung")) -> Path:
    """Claims as a German office has them."""
    start, lines = datetime(2025, 1, 6), ["Schaden-Nr;Gemeldet am;Versicherungsnehmer;Betrag;Prüfergebnis;Geprüft am"]
    for i in range(N):
        at = start + timedelta(hours=5 * i)
        known = at + timedelta(days=9 + i % 5)
        lines.append(
            f"S-{i};{at:%d.%m.%Y %H:%M};V{i % 12};1.{i * 37 % 900:03d},50;{verdicts[i % 8 != 0]};{known:%d.%m.%Y %H:%M}"
        )
    (folder / "claims.csv").write_text("\n".join(lines), encoding="cp1252")
    return folder / "claims.csv"


def read(file: Path) -> list[str]:
    return file.read_text(encoding="cp1252").splitlines()


def test_a_label_of_another_name_is_found_by_what_it_says(tmp_path: Path) -> None:
    plan = drafted([claims(tmp_path)])[0].plan
    assert plan.label is not None
    assert (plan.label.column.name, plan.label.positive) == ("Prüfergebnis", ["Betrug"])
    assert plan.label.known is not None
    assert plan.label.known.name == "Geprüft am"
    assert plan.event_id is not None
    assert plan.event_id.name == "Schaden-Nr"
    assert "Prüfergebnis" not in plan.left
    assert "it could be" in plan.guesses["label"]


def test_a_label_that_nothing_tells_is_asked_for_and_can_be_given(tmp_path: Path) -> None:
    file = claims(tmp_path, ("rot", "grün"))
    plan = drafted([file])[0].plan
    assert plan.label is None
    bare = tmp_path / "bare.csv"  # without numbers to watch either
    bare.write_text("".join(";".join(row.split(";")[:2] + row.split(";")[4:5]) + "\n" for row in read(file)))
    with pytest.raises(UsageError, match="label: none by its name; it could be Prüfergebnis"):
        drafted([bare])
    assert "Prüfergebnis: then say so by --label" in plan.guesses["label"]
    told = drafted([file], lambda question, guess, _: "Prüfergebnis" if "the label?" in question else guess)[0].plan
    assert told.label is not None
    parts = {"label": "Prüfergebnis", "positive": "grün", "label_delay": "3d", "entity": "Versicherungsnehmer"}
    draft = draft_task([file], "claims", given=parts)
    source = TaskSpec.from_toml(draft.text).source
    assert source is not None
    assert (source.label, source.positive, source.label_delay) == ("Prüfergebnis", ("grün",), 3 * 86_400.0)
    assert not {*parts} & {*draft.plan.guesses}


@pytest.mark.parametrize(
    ("part", "said", "words"),
    [
        ("label", "Prufergebnis", "label: no column 'Prufergebnis'; did you mean 'Prüfergebnis'? There are: "),
        ("label", "Schaden-Nr", "label: the column 'Schaden-Nr' cannot be it: it is to have 2 to 6 different values"),
        ("time", "Betrag", "time: the column 'Betrag' cannot be it: most of its values are to be times; these can: "),
        ("entity", "Betrag", "entity: the column 'Betrag' cannot be it: it is to hold ids that come again"),
        ("positive", "blau", "positive: 'blau' is none of 'in Ordnung', 'Betrug'"),
        ("label_delay", "bald", "label delay: 'bald' is not a duration"),
    ],
)
def test_what_is_given_and_cannot_be_is_told(tmp_path: Path, part: str, said: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        draft_task([claims(tmp_path)], "claims", given={"label": "Prüfergebnis"} | {part: said})
    assert str(refused.value).startswith(words)


def test_an_entity_within_a_struct_is_called_by_what_it_is_within(tmp_path: Path) -> None:
    table = rows()
    customers = table.pop("customer")
    lines = [{name: table[name][i] for name in table} | {"buyer": {"id": customers[i]}} for i in range(N)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line, default=str) + "\n" for line in lines))
    plan = drafted([tmp_path / "rows.jsonl"])[0].plan
    assert plan.main is not None
    assert (plan.main.name, plan.entity) == ("buyer.id", "buyer")


def test_no_label_asks_who_falls_silent_or_watches_numbers(tmp_path: Path) -> None:
    table = rows() | {"customer": [f"c{i % 40:02d}" for i in range(N)]}
    del table["fraud"]
    paths = written(tmp_path, table)
    assert drafted(paths)[1].labels.silence is not None
    watching = drafted(paths, lambda _, guess, answers: "numbers" if "numbers" in answers else guess)[1]
    assert watching.labels.silence is None
    assert watching.model.kind == "column"


def test_who_falls_silent_is_asked_as_a_person_says(tmp_path: Path) -> None:
    table = rows() | {"customer": [f"c{i % 40:02d}" for i in range(N)]}
    del table["fraud"]
    paths = written(tmp_path, table)
    draft, task = drafted(paths)
    assert task.labels.silence is not None
    assert (task.labels.silence.score, {"horizon_s", "score"} <= {*draft.plan.guesses}) == ("each event", True)
    answers = {"After how long": "10d", "When is that": "5d"}

    def say(question: str, guess: str, _: Sequence[str]) -> str:
        return next((answer for start, answer in answers.items() if question.startswith(start)), guess)

    silence = (told := drafted(paths, say)[1]).labels.silence
    assert silence is not None
    assert (silence.score, silence.observe_s, silence.horizon_s) == ("first", 5 * 86_400, 10 * 86_400)
    assert silence.reveal == "at_horizon"
    windows = [w for a in told.entities[0].aggregates for w in a.windows]
    assert max(map(float, windows)) == 5 * 86_400  # a longer one holds no more
    answers["After how long"] = "long"
    with pytest.raises(UsageError, match="silence: 'long' is not a duration"):
        drafted(paths, say)


@pytest.mark.parametrize(("n", "share", "rate"), [(300_000, 0.005, 0.3), (300_000, 0.4, 1.0), (20_000, 0.005, 1.0)])
def test_where_positives_are_rare_among_many_some_negatives_are_learned(
    tmp_path: Path, n: int, share: float, rate: float
) -> None:
    rng = np.random.default_rng(1)
    pq.write_table(pa.table({
        "customer": [f"c{k}" for k in rng.integers(900, size=n)], "amount": rng.normal(size=n),
        "time": pa.array(np.arange(n, dtype=np.int64) * 60 + 1_600_000_000, pa.timestamp("s")),
        "fraud": (rng.random(n) < share).astype(np.int64),
    }), tmp_path / "rows.parquet")  # fmt: skip
    assert drafted([tmp_path / "rows.parquet"])[1].labels.negative_rate == rate


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_sample_of_a_large_file_is_bounded_and_spread(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 200_000
    table: Rows = {"at": list(range(n)), "who": [i % 977 for i in range(n)]}
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        path.write_text("at,who\n" + "".join(f"{a:09d},{w:09d}\n" for a, w in zip(*table.values(), strict=True)))
    else:
        pq.write_table(pa.table(table), path, row_group_size=20_000)
    (tmp_path / "samples").mkdir()
    [sample], _ = samples_of([path], tmp_path / "samples", 4_000)
    at = [int(text) for text in sample.table.table.column("at").to_pylist()]
    assert len(at) < 50_000
    assert at[:50] == list(range(50))
    assert max(b - a for a, b in pairwise(at)) < n / 5
    assert abs(sample.rows - n) < 0.02 * n


def found(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks if check.status != "OK"}


def test_a_header_that_is_longer_than_a_stretch_stays_whole(tmp_path: Path) -> None:
    """Of thousands of files in a folder little is read of each."""
    names = [f"temperature_{k}" for k in range(300)]
    lines = [",".join(names), *(",".join(str(n + k) for k in range(300)) for n in range(100))]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "kept").mkdir()
    (sample,), left = samples_of([path], tmp_path / "kept", most=40)
    assert (sample.table.table.column_names, left) == (names, [])
    assert 1 <= sample.table.table.num_rows < 40


def test_an_array_behind_a_byte_order_mark_is_not_cut(tmp_path: Path) -> None:
    rows = [{"id": f"e{n}", "text": "x" * 100} for n in range(200)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "kept").mkdir()
    (sample,), left = samples_of([tmp_path / "rows.json"], tmp_path / "kept", most=40)
    assert (sample.table.table.num_rows, left) == (200, [])


def test_numbers_that_no_sensor_reads_do_not_overflow(tmp_path: Path) -> None:
    """Warnings are errors here, and lines on a terminal there."""
    table = rows() | {"reading": [1e300 if n % 7 == 0 else float(n % 11) for n in range(N)]}
    draft, _ = drafted(written(tmp_path, table))
    assert "reading" in draft.plan.numbers


def test_a_clean_task_has_no_doubts_and_each_odd_thing_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 3000
    y = (rng.random(n) < 0.1).astype(int)
    day = [(awkward.START + timedelta(hours=2.4 * i)).isoformat() for i in range(n)]
    clean: Rows = {
        "at": day,
        "who": [f"u{i % 50}" for i in range(n)],
        "eur": rng.normal(size=n).tolist(),
        "bad": y.tolist(),
    }
    task = """
name = "payments"
entity = "user"
inputs = ["eur", "user.*"]
numbers = ["eur"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "eur", value = "eur", ops = ["mean"], windows = ["7d"] }]
[model]
kind = "logistic"
[threshold]
kind = "budget"
alerts_per_day = 1
[source]
columns = { user_id = "who", eur = "eur" }
time = "at"
label = "bad"
label_delay = "1d"
"""

    def doubts(changed: Rows, old: str = "", new: str = "") -> dict[str, str]:
        paths = written(tmp_path, clean | changed)
        return found(doubts_of(TaskSpec.from_toml(task.replace(old, new) if old else task), paths))

    assert doubts({}) == {}
    assert doubts({"eur": [1.5] * n}) == {"constant": "WARN"}
    assert doubts({"eur": (y + 0.1 * rng.random(n)).tolist()}) == {"leak": "FAIL"}
    assert doubts({"bad": [0] * n}) == {"labels": "FAIL"}
    assert doubts({"who": [f"u{i}" for i in range(n)]}) == {"entities": "WARN"}
    assert doubts({"at": day[::-1]}) == {"order": "WARN"}
    assert doubts({}, "= 1\n", "= 9\n") == {"budget": "WARN"}
    assert doubts({}, '"7d"', '"900d"') == {"windows": "WARN"}
    assert doubts({}, 'label_delay = "1d"', 'label_delay = "400d"') == {"label delay": "FAIL"}
    later = [day[min(i + 80, n - 1)] for i in range(n)]
    known = 'label_known = "known"\n[labels.join]\nkeep_s = "6d"'
    assert doubts({"known": later}, 'label_delay = "1d"', known) == {"horizon": "FAIL"}
    assert doubts({"known": ["2024-12-01T00:00:00Z", *later[1:]]}, 'label_delay = "1d"', 'label_known = "known"') == {
        "early labels": "WARN"
    }


@pytest.mark.parametrize(
    ("key", "join", "without"),
    [("*", "", ""), ("user_id", 'match = "entity_range"\nrange_s = "9m"\n', "event_id"), ("user_id", "", "")],
)
def test_labels_of_files_are_found_as_the_join_finds_them(tmp_path: Path, key: str, join: str, without: str) -> None:
    events: list[dict[str, Any]] = [
        {"event_id": f"e{n}", "user_id": f"u{n % 5}", "ts": 1.7e9 + 600 * n, "amount": n} for n in range(200)
    ]
    labels = [
        {"label_id": f"l{n}", "task": "t", "entity_id": e["user_id"], "event_id": e["event_id"], "ts": e["ts"] + 60}
        for n, e in enumerate(events)
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps({"v": 1, "type": "x", **e}) + "\n" for e in events))
    lines = [{name: v for name, v in each.items() if name != without} for each in labels[:150]]
    told = "".join(json.dumps({"v": 1, "value": int(n % 2), **each}) + "\n" for n, each in enumerate(lines))
    (tmp_path / "labels.jsonl").write_text(told)
    task = TaskSpec.from_toml(
        'name = "t"\nentity = "e"\ninputs = ["hour"]\n[[entities]]\nname = "e"\n'
        f'key = "{key}"\n[model]\nkind = "logistic"\n[labels.join]\n{join}'
    )
    checks = doubts_of(task, [tmp_path / "events.jsonl"], [tmp_path / "labels.jsonl"])
    assert {check.name: check.found for check in checks}["labels"] == "150 labels, 75 (50.00%) positive"


def test_digits_that_name_places_are_categories_and_amounts_and_counts_of_them_are_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    places = rng.integers(0, 9, N)
    padded, whole = [f"0{1000 + k}" for k in places], (94_000 + rng.integers(0, 9, N)).tolist()
    table = rows() | {"branch": padded, "zipCode": whole, "zip_count": [int(k) for k in places]}
    table |= {"total_paid": [f"{int(n):07}" for n in rng.integers(0, 90_000, N)], "no": [f"{i:05}" for i in range(N)]}
    table["fraud"] = table.pop("fraud")
    draft, task = drafted(written(tmp_path, table))
    assert draft.plan.numbers == ["amount", "zip_count", "total_paid"]
    assert {c.name for c in task.categories} == {"channel", "branch", "zipcode"}
    assert next(c.texts for c in task.categories if c.name == "branch")[0].startswith("0")
    assert draft.plan.event_id is not None
    # A file of numbers: what a postal code is called tells.
    pq.write_table(pa.table(table), tmp_path / "payments.parquet")
    assert "zipcode" in {c.name for c in drafted([tmp_path / "payments.parquet"])[1].categories}


def test_a_column_that_is_a_field_of_events_keeps_its_name_and_another_is_told_why_not(tmp_path: Path) -> None:
    table = rows()
    table = {("hour" if name == "amount" else name): cells for name, cells in table.items()}
    draft, _ = drafted(written(tmp_path, table))
    columns = draft.text.partition("[source.columns]")[2].splitlines()
    assert 'channel = "channel"' in columns
    assert next(line for line in columns if "hour" in line).startswith('hour_ = "hour"  # with _:')
    table["channel"] = [f"{channel}{'-' * 20}" for channel in table["channel"]]  # one a little longer fits no event
    assert 'channel_ = "channel"' in drafted(written(tmp_path, table))[0].text


@pytest.mark.parametrize(
    ("separator", "encoding", "says"),
    [
        (",", "utf-8", ""),
        (";", "cp1252", "';' between columns, encoding cp1252, for it is no UTF-8, "),
        ("\t", "utf-16", "tabs between columns, UTF-16-LE, "),
    ],
)
def test_how_a_file_is_written_and_the_sum_below_it_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str, encoding: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table = rows()
    table = {"Nr": [i + 1 for i in range(N)], **{n: c for n, c in table.items() if n != "payment_id"}}
    table["channel"] = [channel.replace("shop", "café") for channel in table["channel"]]
    text = csv(table, separator)
    Path("payments.csv").write_bytes((text + separator.join(["Summe:", *[""] * 4, "48"]) + "\n").encode(encoding))

    def weir(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, words)
        return done.exit_code, done.stdout, done.stderr

    status, _, told = weir("init", "payments.csv", "--yes")
    assert (status, told.splitlines()[1]) == (
        0,
        f"payments.csv: {says}its last row, 'Summe:', is a sum and no event; it is left out",
    )
    task = TaskSpec.from_toml(Path("payments.toml").read_text())
    assert task.source is not None
    assert (task.source.event_id, task.source.label, task.source.positive) == ("Nr", "fraud", ())
    status, sent, _ = weir("send", "payments.csv", "--task", "payments.toml", "--print")
    events = [json.loads(line) for line in sent.splitlines()]
    assert (len(events), {event["channel"] for event in events}) == (N, {"web", "app", "café"})
    quick = task.model_copy(update={"model": LearnerSpec(kind="logistic")})
    result = run_backtest(quick, [Path("payments.csv")], None)
    assert (result.pipeline.scored, result.rejected) == (N, 1)


def test_the_commands_write_check_and_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, rows())

    def weir(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, words)
        return done.exit_code, str(done.exception) if isinstance(done.exception, UsageError) else done.output

    said = weir("init", "payments.csv")[1]
    assert said.startswith("nobody there to answer: How long after an event is its label known?")
    assert said.endswith("here '6h'")
    status, said = weir("init", "payments.csv", "--yes")
    assert status == 0
    assert "weir check payments.toml --data payments.csv" in said
    assert "weir send payments.csv --task payments.toml" in said
    assert weir("init", "payments.csv", "--yes", "--force", "--label", "frau")[1].startswith("label: no column 'frau'")
    assert "payments.toml is there already" in weir("init", "payments.csv", "--yes")[1]
    assert weir("init", "payments.csv", "--yes", "--force")[0] == 0
    assert "cannot name a task" in weir("init", "payments.csv", "--yes", "--name", "1 of us")[1]
    status, said = weir("check", "payments.toml", "--data", "payments.csv", "--json")
    assert (status, json.loads(said)["ok"]) == (0, True)
    (tmp_path / "one.csv").write_text("at,fraud\n2025-01-01,1\n2025-01-02,1\n")
    assert "nothing to learn or to watch" in (said := weir("init", "one.csv", "--yes")[1])
    assert "fraud: it is '1' wherever it is known" in said


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
    ("name", "first"), [("account no", 10**15), ("user_id", 2**60), ("pan_hash", 1_735_689_600_000_000_000)]
)
def test_long_numbers_are_ids(tmp_path: Path, name: str, first: int) -> None:
    """Too long for a float, and some of them could be nanoseconds."""
    table = rows()
    table[name] = [first + int(who[1:]) for who in table.pop("customer")]
    draft, _ = drafted(paths := written(tmp_path, table))
    text = draft.text.replace('[model]\nkind = "auto"', QUICK)
    outcomes = run_backtest(TaskSpec.from_toml(text), paths, keep=Keep(outcomes=True)).outcomes
    assert outcomes is not None
    assert {*outcomes.entity_id} == {*map(str, table[name])}


def test_monthly_snapshots_are_no_odd_clock(tmp_path: Path) -> None:
    months = [f"2024-{m:02}-28" for m in range(1, 13)]
    who = [(month, k) for month in months for k in range(300 if month != months[-1] else 2)]
    table: Rows = {
        "snapshot": [month for month, _ in who],
        "member": [f"m{k}" for _, k in who],
        "hours": [k * 3 % 7 for _, k in who],
        "churned": [int(k % 9 == 0) for _, k in who],
        "known": [(datetime.fromisoformat(month) + timedelta(days=35)).date().isoformat() for month, _ in who],
    }
    draft, task = drafted(paths := written(tmp_path, table))
    notes = run_backtest(TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths).notes
    assert "labels late" not in {note.kind for note in notes}
    assert isinstance(task.threshold, BudgetThreshold)
    assert task.threshold.alerts_per_day * len(months) == pytest.approx(
        sum(table["churned"]), rel=0.1
    )  # not by 331 days
    assert not {"clock", "pause"} & {check.name for check in doubts_of(task, paths)}


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


@pytest.mark.parametrize("lowest", [0.0, -5.0])
def test_labels_that_no_amount_explains_are_counted_for_whom_events_share(tmp_path: Path, lowest: float) -> None:
    table = rows(600, seed=12)
    table["merchant"] = [f"m{k % 40:02d}" for k in range(600)]
    table["amount"][7] = lowest
    draft, task = drafted(paths := written(tmp_path, table))
    made = {
        f"{e.name}.{each.name}": each.where for e in task.entities for each in (*e.labels, *e.aggregates) if each.where
    }
    usual = "customer.amount_over_ewmean"  # a ratio to what is below 0 says nothing
    assert made == ({} if lowest < 0.0 else {"merchant.usual": f"{usual} <= 2", "customer.high": f"{usual} > 2"})
    text = draft.text.replace('kind = "auto"', 'kind = "logistic"')
    assert run_backtest(TaskSpec.from_toml(text), paths).rejected == 0


def test_repeated_rows_are_repeats_and_versions_of_a_row_are_not(tmp_path: Path) -> None:
    table = {name: values + values[::5] for name, values in rows().items()}
    draft, _ = drafted(paths := written(tmp_path, table))
    result = run_backtest(TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths)
    assert (result.pipeline.scored, result.repeats) == (N, N // 5)
    table["amount"][-1] = 1.0
    assert drafted(written(tmp_path, table))[0].plan.event_id is None


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


def test_versions_of_a_row_are_told(tmp_path: Path) -> None:
    """A row with the label of then, and once more with that of now, would be two events that contradict each other."""
    table = rows(600)
    bad = [i for i, y in enumerate(table["fraud"]) if y]
    again = {name: [values[i] for i in bad] for name, values in table.items()}
    table["fraud"] = [0] * 600
    plan = drafted(written(tmp_path, {name: table[name] + again[name] for name in table}))[0].plan
    assert plan.event_id is None
    assert plan.guesses["event_id"].startswith(f"none, for {len(bad)} rows repeat 'payment_id' with other values")
    assert "payment_id" in plan.left
    lines = rows(600) | {"payment_id": [f"p{i - i % 2}" for i in range(600)]}
    assert "event_id" not in drafted(written(tmp_path, lines))[0].plan.guesses, "lines of an order are no versions"


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


def test_a_label_of_one_value_is_told_where_another_task_is_made(tmp_path: Path) -> None:
    table = rows() | {"customer": [f"c{i % 40:02d}" for i in range(N)], "fraud": [0] * N}
    draft, task = drafted(written(tmp_path, table))
    assert task.labels.silence is not None
    why = "no label: fraud might be it, but all its values are '0'"
    assert f"[labels.silence]  # {why}" in draft.text
    assert why in draft.plan.guesses["silence"]
    assert why in next(_told(draft, Path("x.toml")))


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
