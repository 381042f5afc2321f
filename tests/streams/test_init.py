"""``weir init`` makes a task file of any table, and it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.streams import awkward_tables as awkward
from tests.streams.awkward_tables import N, csv, rows
from tests.streams.drafted_tasks import drafted, read, written
from weir.online.learners.factory import LearnerSpec
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.app import app
from weir.streams.cli.offline.init import _told
from weir.streams.errors import UsageError
from weir.streams.workbench.profile.draft import Draft, draft_task

QUICK = '[model]\nkind = "logistic"'


Drafts = Callable[[Callable[[Path], list[Path]]], Draft]


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    """The draft of an awkward table with every guess taken, made once for all tests."""
    return cache(lambda table: draft_task(table(tmp_path_factory.mktemp(table.__name__)), "payments"))


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


def test_numbers_that_no_sensor_reads_do_not_overflow(tmp_path: Path) -> None:
    """Warnings are errors here, and lines on a terminal there."""
    table = rows() | {"reading": [1e300 if n % 7 == 0 else float(n % 11) for n in range(N)]}
    draft, _ = drafted(written(tmp_path, table))
    assert "reading" in draft.plan.numbers


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


def test_a_label_of_one_value_is_told_where_another_task_is_made(tmp_path: Path) -> None:
    table = rows() | {"customer": [f"c{i % 40:02d}" for i in range(N)], "fraud": [0] * N}
    draft, task = drafted(written(tmp_path, table))
    assert task.labels.silence is not None
    why = "no label: fraud might be it, but all its values are '0'"
    assert f"[labels.silence]  # {why}" in draft.text
    assert why in draft.plan.guesses["silence"]
    assert why in next(_told(draft, Path("x.toml")))
