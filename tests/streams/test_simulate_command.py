"""``weir simulate``: files and streams that hold what the simulation gives, and how the command ends."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from weir.streams.cli.offline.simulate import simulate_command
from weir.streams.simulate import TOPICS, SimulationConfig, simulate

CLEAN = {"malformed_share": 0.0, "duplicate_share": 0.0, "late_share": 0.0}


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(simulate_command)
    return CliRunner().invoke(app, ["--events", "2000", "--days", "10", *map(str, arguments)])


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_the_command_writes_a_file_per_topic_that_holds_what_simulate_gives(tmp_path: Path) -> None:
    assert run("--out", tmp_path / "a", "--seed", 5).exit_code == 0
    config = SimulationConfig(seed=5, events=2_000, days=10, **CLEAN)
    expected: dict[str, list[bytes]] = {topic: [] for topic in TOPICS}
    for block in simulate(config):
        for topic, records in block.topics.items():
            expected[topic] += [value for _, value, _ in records]
    assert {path.stem: lines(path) for path in (tmp_path / "a").iterdir()} == expected


def test_parquet_holds_the_same_fields_in_columns(tmp_path: Path) -> None:
    assert run("--out", tmp_path / "j").exit_code == 0
    assert run("--out", tmp_path / "p", "--format", "parquet").exit_code == 0
    for topic, nested in zip(TOPICS, ("properties", "metrics", "properties"), strict=True):
        rows = pq.read_table(tmp_path / "p" / f"{topic}.parquet").to_pylist()
        records = [orjson.loads(line) for line in lines(tmp_path / "j" / f"{topic}.jsonl")]
        assert len(rows) == len(records) > 0
        for row, record in zip(rows, records, strict=True):
            flat = record | record.pop(nested, {}) | record.pop("properties", {})
            assert {name: value for name, value in row.items() if value is not None and name != "available_at"} == {
                name: value for name, value in flat.items() if value is not None and name not in {nested, "properties"}
            }
            assert row["available_at"] >= row["ts"]


def test_stdout_carries_all_topics_by_name_or_one_without() -> None:
    every = [orjson.loads(line) for line in run("--out", "-").stdout_bytes.splitlines()]
    assert Counter(line["topic"] for line in every).keys() == set(TOPICS)
    only = [orjson.loads(line) for line in run("--out", "-", "--topic", "labels").stdout_bytes.splitlines()]
    assert [{"topic": "labels"} | line for line in only] == [line for line in every if line["topic"] == "labels"]


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [(("--format", "parquet", "--out", "-"), "--out DIR"), (("--format", "parquet", "--dirty", "0.1"), "--dirty 0")],
)
def test_formats_that_cannot_hold_what_is_asked_for_are_refused(
    arguments: tuple[str, ...], fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert fix in result.output
    assert not list(tmp_path.iterdir())


def test_a_directory_that_holds_files_is_kept_unless_forced(tmp_path: Path) -> None:
    kept = tmp_path / "labels.jsonl"
    kept.write_text("mine")
    refused = run("--out", tmp_path)
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert kept.read_text() == "mine"
    assert run("--out", tmp_path, "--force").exit_code == 0
    assert kept.read_text() != "mine"


def test_what_a_killed_run_left_needs_no_force(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    (tmp_path / f".labels.jsonl.{ended.pid}-1.tmp").write_bytes(b"half")
    assert run("--out", tmp_path).exit_code == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl"] * 3


def test_the_rate_is_kept(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run("--out", tmp_path, "--rate", 4_000).exit_code == 0
    count = sum(len(lines(path)) for path in tmp_path.iterdir())
    assert time.monotonic() - started >= count / 4_000


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_ctrl_c_leaves_complete_files_and_exits_with_130(form: str, tmp_path: Path) -> None:
    code = "import typer; from weir.streams.cli.offline.simulate import simulate_command; typer.run(simulate_command)"
    command = [sys.executable, "-c", code, "--rate", "2000", "--format", form, "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 30
        while not any((tmp_path / "out").glob(f".labels.{form}.*")) and time.monotonic() < deadline:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # some records
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert b"Interrupted" in errors
    assert b"Traceback" not in errors
    if form == "parquet":
        counts = [pq.read_table(path).num_rows for path in (tmp_path / "out").iterdir()]
    else:
        counts = [len([orjson.loads(line) for line in lines(path)]) for path in (tmp_path / "out").iterdir()]
    assert 0 < sum(counts) < 100_000


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    code = "import typer; from weir.streams.cli.offline.simulate import simulate_command; typer.run(simulate_command)"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--out", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = list(itertools.islice(process.stdout, 3))
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
    assert all(b'"topic"' in line for line in first)


def test_help_shows_examples() -> None:
    assert "weir simulate --seed 7" in run("--help").output
