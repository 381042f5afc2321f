"""An archive gives back what the log gave, however often its making is broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.streams.logged_run import ALL, FRAUD, PARTITIONS, TASK, archived, read_embedded, run, same, simulated, source
from weir.streams.cli.models.archive import archive_command
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import LogError, UsageError
from weir.streams.records import Record
from weir.streams.trainer.history import parquet_archive as archive_module
from weir.streams.trainer.history.log_sources import EmbeddedSource, Piece
from weir.streams.trainer.history.logged_tables import KINDS, RecordReader
from weir.streams.trainer.history.parquet_archive import Archive, missing, read_archive
from weir.streams.trainer.history.read_history import read_history

# -- the archive -------------------------------------------------------------------------------------------------------


async def test_an_archive_gives_back_what_the_log_gave(tmp_path: Path) -> None:
    made = await archived(tmp_path, run().log)
    assert min(made.rows.values()) > 0
    from_log = await read_embedded(TASK, run().log)
    same(await read_history(TASK, archive=tmp_path), from_log)
    both = await read_history(TASK, archive=tmp_path, source=source(run().log))
    same(both, from_log)
    assert both.left_out["repeated predictions"] == len(from_log.history)
    days = {path.parent.name for path in (tmp_path / "fraud" / "predictions").rglob("*.parquet")}
    assert len(days) >= 5
    lo = float(np.quantile([r.ts for b in run().log.read([topics.PREDICTIONS], 0) for r in b.records], 0.3))
    part = read_archive(tmp_path, "fraud", "predictions", lo)
    every = read_archive(tmp_path, "fraud", "predictions")
    times = np.concatenate([t["written_at"].to_numpy() for t in every])
    assert sum(t.num_rows for t in part) == int((times >= lo).sum()) > 0


async def test_a_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    log = run().log
    mid = float(np.median([r.ts for b in log.read([topics.PREDICTIONS], 0) for r in b.records]))
    first = await archived(tmp_path, log, until=mid)
    names = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    second = await archived(tmp_path, log)
    assert all(path.stat().st_mtime_ns == at for path, at in names.items())
    assert (await archived(tmp_path, log)).files == 0
    whole = await archived(tmp_path / "whole", log)
    assert {kind: first.rows[kind] + second.rows[kind] for kind in KINDS} == whole.rows
    same(await read_history(TASK, archive=tmp_path), await read_history(TASK, archive=tmp_path / "whole"))


class Breaks(EmbeddedSource):
    """Breaks off after so many pieces."""

    left = 0

    async def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[Piece]:
        async for piece in super().read(topic, partition, start, stop):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield piece


def test_a_run_that_is_broken_off_anywhere_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FILE_RECORDS", 100)
    breaking, runs, rows = Breaks(run().log.read(ALL, 0)), 0, dict.fromkeys(KINDS, 0)
    while True:
        breaking.left, archive = 17, Archive(tmp_path, RecordReader(TASK))
        runs += 1
        try:
            asyncio.run(archive.write(breaking, None, None))
            break
        except KeyboardInterrupt:
            assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".parquet"]
        finally:
            rows = {kind: rows[kind] + archive.archived.rows[kind] for kind in KINDS}
    assert runs > 3
    for kind in KINDS:
        for spans in Archive(tmp_path, RecordReader(TASK)).covered(kind).values():
            ordered = sorted(spans)
            assert all(a[1] == b[0] for a, b in pairwise(ordered)), "no gap and no overlap"
    assert rows == asyncio.run(archived(tmp_path / "whole", run().log)).rows
    same(asyncio.run(read_history(TASK, archive=tmp_path)), asyncio.run(read_embedded(TASK, run().log)))


@given(
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda r: (r[0], r[0] + r[1])), max_size=6),
)
def test_missing_is_what_nothing_covers(span: tuple[int, int], covered: list[tuple[int, int]]) -> None:
    gaps = missing(span, covered)
    assert all(low < high for low, high in gaps)
    there = [k for low, high in gaps for k in range(low, high)]
    assert there == [k for k in range(*span) if not any(low <= k < high for low, high in covered)]


async def test_an_archive_of_another_log_is_refused(tmp_path: Path) -> None:
    await archived(tmp_path, run().log)
    other = EmbeddedLog(PARTITIONS)
    other.append(topics.PREDICTIONS, [Record(b"u1", b"{}", 1.7e9)])
    with pytest.raises(UsageError, match="ends at 1: it is of another log"):
        await archived(tmp_path, other)


async def test_the_id_of_a_topic_is_written_once_and_another_one_is_refused(tmp_path: Path) -> None:
    """Written again with every run, it could be left empty by a kill, and an empty one takes any topic for its own."""

    class Named(EmbeddedSource):
        name = "made-first"

        async def identity(self, topic: str) -> str:
            del topic
            return self.name

    async def write(name: str) -> None:
        log = Named(run().log.read(topics.ALL, 0))
        log.name = name
        await Archive(tmp_path, RecordReader(TASK)).write(log, None, None)

    await write("made-first")
    held = tmp_path / "fraud" / "predictions" / "topic"
    assert held.read_text() == "made-first\n"
    before = held.stat().st_mtime_ns
    await write("made-first")
    assert held.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="of topic id made-first, but the brokers now have made-later"):
        await write("made-later")


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    await archived(tmp_path, run().log)
    path = next((tmp_path / "fraud" / "examples").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=f"{path.name}: cannot be read"):
        await read_history(TASK, archive=tmp_path)
    with pytest.raises(UsageError, match="no archive of task churn"):
        read_archive(tmp_path, "churn", "predictions")


# -- the directory of a log, and the command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    simulated(directory, 600).log.close()
    return directory


async def test_a_directory_is_read_and_left_as_it_is(directory: Path, tmp_path: Path) -> None:
    content = (directory / "records.log").read_bytes()
    read = await read_history(TASK, source=EmbeddedSource.of_directory(directory))
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "records.log").write_bytes(content + content[: len(content) // 1000 + 11])  # being written
    same(await read_history(TASK, source=EmbeddedSource.of_directory(torn)), read)
    assert (directory / "records.log").read_bytes() == content
    assert (torn / "records.log").stat().st_size > len(content)
    bad = bytearray(content)
    bad[len(bad) // 2] ^= 1
    (torn / "records.log").write_bytes(bytes(bad))
    with pytest.raises(LogError, match="damaged at byte"):
        EmbeddedSource.of_directory(torn)
    bad = bytearray(content)
    bad[6] ^= 1  # of the first frame's length: it seems to reach behind the end
    (torn / "records.log").write_bytes(bytes(bad))
    with pytest.raises(LogError, match="damaged at byte 0"):
        EmbeddedSource.of_directory(torn)
    with pytest.raises(UsageError, match="no such log"):
        EmbeddedSource.of_directory(tmp_path)


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(archive_command)
    return app


def test_the_command_archives_a_log(directory: Path, tmp_path: Path) -> None:
    task, out = tmp_path / "fraud.toml", tmp_path / "archive"
    task.write_text(FRAUD)
    arguments = ["--task", str(task), "--log", str(directory), "--out", str(out)]
    first = CliRunner().invoke(command(), arguments)
    assert first.exit_code == 0, first.output
    found = asyncio.run(read_history(TASK, archive=out))
    same(found, asyncio.run(read_history(TASK, source=EmbeddedSource.of_directory(directory))))
    assert f"{len(found.history):,}" in first.output
    again = CliRunner().invoke(command(), arguments)
    assert [line.split() for line in again.output.splitlines() if line.startswith("fraud")] == [["fraud", *"0000"]]
    wrong = CliRunner().invoke(command(), [*arguments, "--since", "yesterday"])
    assert isinstance(wrong.exception, UsageError)
    assert "--since 'yesterday': give a time" in str(wrong.exception)


def test_an_interrupt_leaves_whole_files_and_says_so(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fraud.toml").write_text(FRAUD)
    whole, write = 0, pq.write_table

    def write_some(table: Any, file: Any, **options: Any) -> None:
        nonlocal whole
        if whole == 3:
            file.write(b"PAR1")
            raise KeyboardInterrupt
        whole += 1
        write(table, file, **options)

    monkeypatch.setattr(pq, "write_table", write_some)
    arguments = ["--task", str(tmp_path / "fraud.toml"), "--log", str(directory), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command(), arguments)
    assert done.exit_code == 130
    assert "interrupted: run it again to go on from here" in done.output
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(kept) == 3
    assert all(path.suffix == ".parquet" for path in kept)
    monkeypatch.undo()
    assert CliRunner().invoke(command(), arguments).exit_code == 0
    found = asyncio.run(read_history(TASK, archive=tmp_path / "out"))
    same(found, asyncio.run(read_history(TASK, source=EmbeddedSource.of_directory(directory))))
