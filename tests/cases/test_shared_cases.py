"""Files as people have them, of the folder ``shared/cases`` beside the checkout: each ends as its README says is right.

The folder is not part of the project; without it these tests are skipped. The essence of each case is held by tests of
its module. Cases of brokers are held by tests in ``tests/integration``, see ``KAFKA``.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from weir.online.errors import WeirError
from weir.streams.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(os.environ.get("WEIR_SHARED", ROOT.parent / "shared")) / "cases"
KAFKA = {
    "kafka_idle_partition_churn": "tests/integration/test_event_time.py",
    "kafka_more_partitions_resets_windows": "tests/integration/test_topic_identity.py",
    "kafka_other_partitioner_loses_labels": "tests/integration/test_misplaced.py",
    "kafka_topic_recreated_skips_events": "tests/integration/test_topic_identity.py",
    "kafka_unkeyed_events_split_rows": "tests/integration/test_misplaced.py",
    "kafka_unset_clock_breaks_budget": "tests/integration/test_event_time.py",
}
ALERTS, LABELLED, ROWS = 62, 1_392, 1_500
"""Of the plain data behind most of the cases."""

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no folder {CASES}: it is handed out apart")


@dataclass(frozen=True)
class Ended:
    """How a backtest ended."""

    status: int
    words: str
    report: dict[str, Any]
    scores: Path

    @property
    def alerts(self) -> int:
        return int(self.report["alerts"].get("open", 0))

    @property
    def labelled(self) -> int:
        return int(self.report["labelled"])

    @property
    def precision(self) -> float:
        return float(self.report["metrics"]["cumulative"]["average_precision"])

    @property
    def kinds(self) -> set[str]:
        return {note["kind"] for note in self.report["notes"]}

    def is_plain(self) -> None:
        """It is what the plain data gives."""
        assert (self.status, self.report["scored"], self.labelled, self.alerts) == (0, ROWS, LABELLED, ALERTS)
        assert self.precision == pytest.approx(0.8326, abs=5e-4)

    def refuses(self, *words: str) -> None:
        """It is one line that holds these words."""
        assert self.status == 2, self.words
        assert len(self.words.strip().splitlines()) == 1
        for word in words:
            assert word in self.words


class Case:
    """One folder."""

    def __init__(self, name: str, out: Path) -> None:
        self._in, self._out = CASES / name, out

    def __call__(self, data: str, *more: str, task: str = "task.toml") -> Ended:
        report, scores = self._out / f"{data}.json", self._out / f"{data}.parquet"
        arguments = ["--data", str(self._in / data), "--report", str(report), "--scores", str(scores)]
        arguments += [str(self._in / word) if word.endswith(".jsonl") else word for word in more]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ended = CliRunner().invoke(app, ["backtest", str(self._in / task), *arguments], env={"NO_COLOR": "1"})
        if isinstance(ended.exception, WeirError):
            return Ended(2, str(ended.exception), {}, scores)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        return Ended(ended.exit_code, ended.output, orjson.loads(report.read_bytes()), scores)

    def labels(self, data: str, labels: str, delay: str = "3d", task: str = "task.toml") -> Ended:
        return self(data, "--labels", labels, "--label-delay", delay, task=task)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.function.__name__.removeprefix("test_"), tmp_path)


def column(ended: Ended, name: str) -> np.ndarray[Any, Any]:
    return np.array(pq.read_table(ended.scores).column(name).to_pylist())


def test_every_case_has_its_test() -> None:
    there = {folder.name for folder in CASES.iterdir() if folder.is_dir()}
    assert there <= {name.removeprefix("test_") for name in globals()} | KAFKA.keys()
    assert all((ROOT / path).is_file() for path in KAFKA.values())


def test_csv_duplicate_columns(case: Case) -> None:
    case("dupother.csv").is_plain()
    case("dupcol.csv").refuses("dupcol.csv", "'eur'")


def test_csv_repeated_event_ids(case: Case) -> None:
    ended = case("dup_event_ids.csv")
    ended.is_plain()
    assert (ended.report["rows"], ended.report["repeats"]) == (2_000, 500)
    assert "500 rows repeat an event_id" in ended.words


def test_csv_semicolon(case: Case) -> None:
    case("semicolon.csv").is_plain()
    case("tab.csv").is_plain()


def test_ewmean_one_broken_reading(case: Case) -> None:
    assert case("none.csv", task="ew.toml").alerts == 0
    broken = case("fmax.csv", task="ew.toml")
    assert broken.alerts <= 2
    assert broken.status == 0


def test_json_big_ids_merge(case: Case) -> None:
    text, number = case("iccid_text.jsonl"), case("iccid.jsonl")
    text.is_plain()
    number.is_plain()
    assert column(text, "entity_id").tolist() == column(number, "entity_id").tolist()


def test_label_file_rejects_dropped(case: Case) -> None:
    case.labels("events.jsonl", "labels.jsonl").is_plain()
    half = case.labels("events.jsonl", "labels_half_true.jsonl")
    if half.labelled < LABELLED:  # else `true` is understood
        assert "750 lines of labels were refused; the first: row 2: value: " in half.words
        only = case.labels("events.jsonl", "labels_pos_true.jsonl")
        assert "lines of labels were refused" in only.words
        assert {"labels refused", "one class"} <= only.kinds
        case.labels("events.jsonl", "labels_true.jsonl").refuses("labels_true.jsonl", "refused", "row 1: value: ")
    case.labels("events.jsonl", "labels_ms.jsonl").refuses("labels_ms.jsonl", "1,500 lines were refused", "row 1: ts: ")


def test_label_na_is_negative(case: Case) -> None:
    for file in ("empty.csv", "na.csv", "null.csv"):
        ended = case(file)
        assert (ended.status, ended.labelled, ended.alerts) == (0, 544, 66)


def test_label_words_all_negative(case: Case) -> None:
    for file in ("minus.csv", "TRUE.csv", "YesNo.csv", "YN.csv", "padded.csv", "float.csv"):
        case(file).is_plain()


def test_labels_unknown_event_warning(case: Case) -> None:
    unknown = case.labels("events.jsonl", "labels_unknown.jsonl")
    assert "400 labels name events that are not in the data" in unknown.words
    nameless = case.labels("events.jsonl", "labels_noevent.jsonl")
    assert 'labels have no event_id, but are matched by it (match = "event")' in nameless.words
    for ended in (unknown, nameless):
        assert "labels late" not in ended.kinds
        assert "[source]" not in ended.words


def test_na_ids_one_entity(case: Case) -> None:
    ended = case("na_ids.csv")
    assert (ended.status, ended.report["scored"], ended.report["rejected"]) == (0, ROWS - 215, 215)
    assert "NA" not in set(column(ended, "entity_id"))
    assert "user_id" in ended.words


def test_number_text_silently_missing(case: Case) -> None:
    point = case("prop_point.csv", task="prop.toml")
    assert point.precision > 0.89
    assert point.report["notes"] == []
    for file in ("prop_comma.csv", "prop_euro.csv", "prop_thousands.csv"):
        ended = case(file, task="prop.toml")
        if ended.status == 2:
            assert "basket" in ended.words
        else:
            assert ended.precision == pytest.approx(point.precision, abs=5e-3) or "basket" in ended.words


def test_parquet_dictionary_amount(case: Case) -> None:
    case("dict_amount.parquet").is_plain()


def test_parquet_dictionary_time(case: Case) -> None:
    case("dict_time.parquet").is_plain()


def test_parquet_list_id(case: Case) -> None:
    case("list_id.parquet").refuses("list_id.parquet", "customer", "list")


def test_parquet_struct_id(case: Case) -> None:
    case("struct_id.parquet").refuses("struct_id.parquet", "customer", "struct")


def test_parquet_time_of_day(case: Case) -> None:
    case("time64.parquet").refuses("time64.parquet", "when", "time")


def test_pause_breaks_budget(case: Case) -> None:
    assert case("without.csv").alerts == ALERTS
    for file in ("pause.csv", "pause30.csv"):
        ended = case(file)
        assert ended.alerts == pytest.approx(ALERTS, rel=0.1)
        assert "pause" in ended.kinds


def test_runtime_warning_on_stderr(case: Case) -> None:
    for file, task in (("fmax.jsonl", "task.toml"), ("dmax.jsonl", "simple.toml")):
        ended = case.labels(file, "labels.jsonl", "0s", task)
        assert ended.status == 0
        assert "RuntimeWarning" not in ended.words
        assert np.isfinite(column(ended, "score")).all()


def test_time_not_understood(case: Case) -> None:
    for file in ("bigquery.csv", "de.csv", "us_ampm.csv", "slash.csv"):
        ended = case(file)
        if ended.status == 2:
            ended.refuses("when", "time_format")
        else:
            assert (ended.status, ended.report["scored"]) == (0, ROWS)
            assert abs(ended.labelled - LABELLED) < 9


def test_unmapped_key_silent(case: Case) -> None:
    case("pay.csv", task="nomap.toml").refuses("nothing in [source] feeds 'merchant_id'", "columns in [source]")


def test_unset_clock_breaks_budget(case: Case) -> None:
    assert case("without.csv").alerts == ALERTS
    ended = case("one_row_of_2000.csv")
    assert ended.alerts == pytest.approx(ALERTS, rel=0.1)
    assert "1 row stands 9,501 days before all others" in ended.words


def test_window_float32_counter(case: Case) -> None:
    for task in ("range.toml", "std.toml"):
        small, big = (case(f"{size}.csv", task=task) for size in ("small", "big"))
        np.testing.assert_allclose(column(big, "score"), column(small, "score"), atol=1e-4)
