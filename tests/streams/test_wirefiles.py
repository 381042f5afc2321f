"""Backtests over dumps of topics: the same scores as a mapped file, labels never early, bad lines set aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.streams.purchase_tasks import purchases, source
from weir.online.batch import EventBatch, FloatVector, LabelBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.runner import run_backtest
from weir.streams.backtest.wire_files import read_labels
from weir.streams.errors import UsageError

DAY, T0 = 86_400.0, 1_760_000_000.0
TASK = purchases(windows='"1d", "7d"')
SOURCE = source("who", 'label_delay = "2d"\nbatch_size = 64\n', time="when")


def task(more: str = "") -> TaskSpec:
    return TaskSpec.from_toml(TASK + more)


def rows(n: int = 400) -> list[dict[str, object]]:
    rng = np.random.default_rng(5)
    when = T0 + np.sort(rng.uniform(0, 20 * DAY, n))
    return [
        {
            "id": f"e{i}",
            "who": f"u{rng.integers(9)}",
            "eur": float(rng.integers(1, 99)),
            "when": when[i],
            "bad": i % 7 == 0,
        }
        for i in range(n)
    ]


def dump(directory: Path, data: list[dict[str, object]], extra: tuple[bytes, ...] = ()) -> tuple[Path, Path]:
    events = [
        {"v": 1, "event_id": r["id"], "type": "purchase", "user_id": r["who"], "ts": r["when"], "amount": r["eur"]}
        for r in reversed(data)  # a dump need not be in order
    ]
    labels = [
        {"v": 1, "label_id": f"l{r['id']}", "task": "fraud", "entity_id": r["who"], "event_id": r["id"],
         "ts": r["when"], "value": int(bool(r["bad"]))}
        for r in data
    ]  # fmt: skip
    paths = directory / "user-events.jsonl", directory / "labels.jsonl"
    for path, records in zip(paths, (events, labels), strict=True):
        path.write_bytes(b"\n".join([*(json.dumps(r).encode() for r in records), *extra]) + b"\n")
    return paths


def test_a_dump_gives_the_scores_of_the_same_rows_in_a_table(tmp_path: Path) -> None:
    data = rows(3_000)
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(r) + "\n" for r in data))
    events, labels = dump(tmp_path, data)
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    mapped = run_backtest(task(SOURCE.replace("64", "512")), [table], one)
    dumped = run_backtest(task(), [events], other, labels=[labels], label_delay_s=2 * DAY)
    assert mapped.pipeline.labelled == dumped.pipeline.labelled > 0
    assert pq.read_table(one).equals(pq.read_table(other))


def test_no_label_is_handed_over_before_its_delay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, labels = dump(tmp_path, rows(2_000))
    scored_next: list[float] = []
    handed: list[tuple[int, float]] = []
    score, learn = TaskPipeline.events, TaskPipeline.labels

    def watched_events(self: TaskPipeline, batch: EventBatch) -> StepOutput:
        scored_next.append(float(batch.ts.min()))
        return score(self, batch)

    def watched_labels(self: TaskPipeline, batch: LabelBatch, known_at: FloatVector | None = None) -> StepOutput:
        handed.append((len(scored_next), float(batch.ts.max())))
        return learn(self, batch, known_at)

    monkeypatch.setattr(TaskPipeline, "events", watched_events)
    monkeypatch.setattr(TaskPipeline, "labels", watched_labels)
    run_backtest(task(), [events], None, labels=[labels], label_delay_s=3 * DAY)
    assert handed
    for step, newest_label in handed:  # the batch that is scored next comes at least the delay later
        assert scored_next[step] >= newest_label + 3 * DAY


def test_bad_lines_and_repeats_are_set_aside_with_reasons(tmp_path: Path) -> None:
    data = rows(50)
    again = json.dumps(
        {"v": 1, "event_id": "e3", "type": "purchase", "user_id": data[3]["who"], "ts": T0 + DAY, "amount": 1.0}
    ).encode()
    events, _ = dump(tmp_path, data, (b'{"v":1', again, b"[]"))
    result = run_backtest(task(), [events], None)
    assert result.pipeline.scored == 50
    assert (result.rows, result.repeats) == (53, 1)
    assert [r.index for r in result.rejects] == [50, 52]
    assert {note.kind for note in result.notes} >= {"rows refused", "repeats"}


@pytest.mark.parametrize(
    ("source", "suffix", "delay", "message"),
    [
        ("", ".jsonl", None, "--label-delay"),
        (SOURCE, ".jsonl", DAY, "drop one of the two"),
    ],
)
def test_what_does_not_fit_together_is_said(
    tmp_path: Path, source: str, suffix: str, delay: float | None, message: str
) -> None:
    events, labels = dump(tmp_path, rows(20))
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(r) + "\n" for r in rows(20)))
    data = table if source else events.rename(events.with_suffix(suffix))
    with pytest.raises(UsageError, match=message):
        run_backtest(task(source), [data], None, labels=[labels], label_delay_s=delay)


def test_a_table_without_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,ts\n1,2\n")
    with pytest.raises(UsageError, match=r"rows.csv: without a \[source\] table files must be wire-format JSONL"):
        run_backtest(task(), [tmp_path / "rows.csv"], None)


def test_a_row_of_several_files_is_named_by_its_file(tmp_path: Path) -> None:
    first, second = rows(50)[:20], rows(50)[20:]
    folder = tmp_path / "events"
    for name, part, bad in (("a", first, b""), ("b", second, b'{"v":1\n')):
        (folder / name).mkdir(parents=True)
        events, labels = dump(folder / name, part)
        events.write_bytes(bad + events.read_bytes())
        labels.rename(tmp_path / f"{name}.jsonl")
    result = run_backtest(task(), [folder], None, labels=[tmp_path / "a.jsonl"], label_delay_s=DAY)
    assert result.rows == 51
    [reject] = result.rejects
    assert result.told(reject).startswith(f"{folder}/b/user-events.jsonl, row 1: not JSON")
    assert result.report()["first_rejects"][0] | {"reason": ""} == {
        "row": 21, "where": f"{folder}/b/user-events.jsonl, row 1", "reason": ""
    }  # fmt: skip
    [note] = [note for note in result.notes if note.kind == "rows refused"]
    assert f"the first: {folder}/b/user-events.jsonl, row 1: not JSON" in note.what


def test_labels_of_another_task_only_is_an_error_that_names_them(tmp_path: Path) -> None:
    _, labels = dump(tmp_path, rows(5))
    with pytest.raises(UsageError, match="there are labels of: fraud"):
        read_labels("churn", [labels])


@pytest.mark.parametrize("kind", ["gzip", "zstd", "utf-16", "utf-8-sig"])
def test_what_is_packed_or_encoded_otherwise_is_known_by_its_contents(tmp_path: Path, kind: str) -> None:
    events, labels = dump(tmp_path, rows(60))
    plain = run_backtest(task(), [events], None, labels=[labels], label_delay_s=DAY).pipeline.snapshot()
    for path in (events, labels):
        raw = path.read_bytes()
        packed = pa.compress(raw, kind, asbytes=True) if kind == "zstd" else gzip.compress(raw)
        path.write_bytes(raw.decode().encode(kind) if "utf" in kind else packed)
    again = run_backtest(task(), [events], None, labels=[labels], label_delay_s=DAY).pipeline.snapshot()
    assert again == plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b' [{"v":1}]', r"x.jsonl: a JSON array; write one record a line: jq -c '.\[\]'"),
        ("x.jsonl.gz", b"\x1f\x8b\x08broken", r"x.jsonl.gz: cannot be read: "),
        ("x.jsonl", None, r"x.jsonl is a folder without data files; give "),
        ("x.csv", b"a,b", r"x.csv: labels must be wire-format JSONL"),
        ("x.jsonl", b"\n", r"x.jsonl: no line in it"),
    ],
)  # fmt: skip
def test_label_files_that_are_none_are_errors_of_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_labels("fraud", [path])
