"""The files of an embedded log: power cuts, full disks, failed syncs, readers in other threads, other processes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch, read_directory
from weir.streams.embedded.log_frames import frames
from weir.streams.errors import LogError, LogFull, RecordsDropped
from weir.streams.records import Record

SMALL = 300
"""Bytes of a segment: a few batches."""


def records(number: int, n: int = 3) -> list[Record]:
    return [Record(b"k%d" % i, b"%d-%d" % (number, i), float(number)) for i in range(n)]


def batches(log: EmbeddedLog, seq: int = 0) -> list[LoggedBatch]:
    return [replace(b, records=tuple(b.records)) for b in log.read(["a", "b"], seq)]


def filled(folder: Path, n: int = 60) -> list[LoggedBatch]:
    with EmbeddedLog(directory=folder, segment_bytes=SMALL) as log:
        for number in range(n):
            log.append("ab"[number % 2], records(number))
        return batches(log)


def opened(folder: Path) -> EmbeddedLog:
    return EmbeddedLog(directory=folder, segment_bytes=SMALL)


# -- starts ------------------------------------------------------------------------------------------------------------


def test_a_start_reads_no_file_that_was_synced_but_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = filled(tmp_path)
    scanned: list[str] = []

    def spy(path: Path, at: int = 0) -> Iterator[Any]:
        scanned.append(path.name)
        return frames(path, at)

    monkeypatch.setattr("weir.streams.embedded.log_segments.frames", spy)
    with opened(tmp_path) as log:
        assert len(scanned) == 1 < len(list(tmp_path.glob("*.log"))) / 5
        assert batches(log) == whole
        assert len(scanned) == 1


def test_a_log_of_one_long_file_goes_on_in_others(tmp_path: Path) -> None:
    """As versions before this one wrote it."""
    with EmbeddedLog(directory=tmp_path) as log:
        for number in range(30):
            log.append("ab"[number % 2], records(number))
        whole = batches(log)
    assert [p.name for p in tmp_path.iterdir()] == ["records.log"]
    with opened(tmp_path) as log:
        whole += [replace(b, records=tuple(b.records)) for n in range(30, 40) for b in log.append("a", records(n))]
        assert batches(log) == whole
    with opened(tmp_path) as log:
        assert batches(log) == whole
        assert log.end_offsets("a") == {0: 3 * 25}
    assert len(list(tmp_path.glob("*.log"))) > 2


@pytest.mark.parametrize("victim", [0, 3, -2])
def test_a_lost_index_is_made_again(tmp_path: Path, victim: int) -> None:
    whole = filled(tmp_path)
    index = sorted(tmp_path.glob("*.idx"))[victim]
    kept = index.read_bytes()
    for damage in (None, kept[:-1], b"", kept[:50] + b"\x55" + kept[51:]):
        index.unlink()
        if damage is not None:
            index.write_bytes(damage)
        with opened(tmp_path) as log:
            assert batches(log) == whole
            log.sync()
        if damage is None:
            assert index.read_bytes() == kept


@pytest.mark.parametrize("victim", [1, 5, -2])
def test_a_synced_file_that_was_lost_or_cut_is_told(tmp_path: Path, victim: int) -> None:
    filled(tmp_path)
    path = sorted(tmp_path.glob("records-*.log"))[victim]
    data = path.read_bytes()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != path}
    for damage in (None, data[:-1], data[:40]):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(LogError, match=r"missing or was changed; restore it|head is damaged"):
            opened(tmp_path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p != path} == before
        path.write_bytes(data)


def test_a_damaged_head_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    path = max(tmp_path.glob("records-*.log"))
    data = bytearray(path.read_bytes())
    data[14] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(LogError, match="its head is damaged; restore the file"):
        opened(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_power_cut_takes_only_what_was_not_synced(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of each file any part that was not synced is there, a later one's more than an earlier one's; or zeros."""
    folder = tmp_path_factory.mktemp("log")
    log = opened(folder)
    for number in range(data.draw(st.integers(0, 25), "synced")):
        log.append("ab"[number % 2], records(number))
    synced = log.sync()
    held = {p.name: p.stat().st_size for p in folder.iterdir()}
    for number in range(100, 100 + data.draw(st.integers(0, 25), "not synced")):
        log.append("ab"[number % 2], records(number))
    whole, cut = batches(log), folder.with_name(f"{folder.name}-cut")
    shutil.copytree(folder, cut)
    log.close()
    for path in sorted(cut.glob("*.log")):
        size, safe = path.stat().st_size, held.get(path.name, 0)
        kept = data.draw(st.integers(safe, size), path.name)
        os.truncate(path, kept)
        if (kept or path.name != "records.log") and data.draw(st.booleans(), "zeros behind"):
            os.truncate(path, size)
        if path.name not in held and kept == 0 and data.draw(st.booleans(), "its name is lost"):
            path.unlink()
    seen = [replace(b, records=tuple(b.records)) for b in read_directory(cut)]
    with opened(cut) as log:
        after = batches(log)
        assert after == seen == whole[: len(after)]
        assert len(after) >= synced
        log.append("a", records(999))
    with opened(cut) as log:
        assert len(batches(log)) == len(after) + 1
    shutil.rmtree(cut)


# -- full disks and failing ones ---------------------------------------------------------------------------------------


class Disk:
    """``os.write`` of a disk with so much room; the rest of a batch is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.room, self._code, self._write = 1 << 30, code, os.write
        monkeypatch.setattr("weir.streams.embedded.segment_store.os.write", self.write)

    def write(self, file: int, data: memoryview) -> int:
        if self.room <= 0:
            raise OSError(self._code, os.strerror(self._code))
        part = data[: self.room]
        self.room -= len(part)
        return self._write(file, part)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_the_log_as_it_was_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk, log = Disk(monkeypatch, code), EmbeddedLog(directory=tmp_path, max_batch=2, segment_bytes=SMALL)
    told: list[str] = []
    with log:
        for number in range(40):  # at every place in a batch of two frames, and in the head of a file
            before, files = batches(log), {p.name: p.read_bytes() for p in tmp_path.iterdir()}
            disk.room = number * 5
            try:
                log.append("a", records(number))
            except LogFull as error:
                told.append(str(error))
                assert batches(log) == before
                assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} in (files, _rolled(files, tmp_path))
                disk.room = 1 << 30
                log.append("a", records(number))
            assert len(batches(log)) == len(before) + 2
            disk.room = 1 << 30
        said = re.compile(rf"{tmp_path}: no room for the log \(.*; [\d,]+ B are free on its disk\): make room, .*")
        assert all(map(said.fullmatch, told))
        assert len(told) > 20
        whole = batches(log)
    with opened(tmp_path) as log:
        assert batches(log) == whole


def _rolled(files: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """The same with a new file that holds its head alone."""
    newest = max(folder.glob("records-*.log"), default=folder / "records.log")
    return {**files, newest.name: newest.read_bytes()}


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import LogFull
from weir.streams.records import Record
log = EmbeddedLog(directory=Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
try:
    while True:
        log.append("a", [Record(b"k", bytes(300), 1.0)])
except LogFull as error:
    assert "File too large" in str(error), error
held = log.next_seq
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append("a", [Record(b"k", bytes(300), 1.0)])
log.close()
print(held)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with opened(tmp_path) as log:
        assert len(batches(log)) == int(done.stdout) + 1 == 5_000 // 345 + 1


def test_after_a_failed_sync_nothing_more_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    log.append("a", records(1))

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(LogError, match=r"could not be synced .* nothing more is taken; look after the disk"):
            log.sync()
    for refused in (lambda: log.append("a", records(2)), log.sync):
        with pytest.raises(LogError, match="nothing more is taken"):
            refused()
    log.close()
    with opened(tmp_path) as log:
        assert len(batches(log)) == 1


def test_no_room_for_an_index_is_no_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    for number in range(20):
        log.append("a", records(number))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("weir.streams.embedded.log_index.write_durably", full)
        assert log.sync() == 20
    assert not list(tmp_path.glob("*.idx"))
    log.append("a", records(21))
    log.sync()
    assert len(list(tmp_path.glob("*.idx"))) == len(list(tmp_path.glob("*.log"))) - 1
    log.close()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.close()
    with pytest.raises(LogError, match="the log is closed"):
        log.append("a", records(1))


# -- retention ---------------------------------------------------------------------------------------------------------


def test_retention_by_age_and_by_size_keeps_what_a_resume_needs(tmp_path: Path) -> None:
    filled(tmp_path)
    with opened(tmp_path) as log:
        log.sync()
        ends, size = log.end_offsets("a"), sum(p.stat().st_size for p in tmp_path.glob("*.log"))
        assert log.retain(0, older_than=1e9, max_bytes=0) == 0
        freed = log.retain(log.next_seq, older_than=20.0)
        assert 15 < log.first_seq <= 20
        assert sum(p.stat().st_size for p in tmp_path.glob("*.log")) == size - freed
        log.retain(log.next_seq, max_bytes=size / 3)
        assert size / 3 - SMALL * 2 < sum(p.stat().st_size for p in tmp_path.glob("*.log")) <= size / 3
        log.retain(50, max_bytes=0)
        assert 45 < log.first_seq <= 50
        log.retain(log.next_seq, max_bytes=0)
        assert log.end_offsets("a") == ends
        first = log.first_offset("a", 0)
        assert log.offset_at("a", 0, 0.0) == first
        with pytest.raises(RecordsDropped, match=rf"a-0: offset 0 is no longer kept; .* offset {first}") as caught:
            log.read_from("a", 0, 0)
        assert caught.value.first == first
        with pytest.raises(LogError, match=r"cannot be cut at batch 0; kept are those from \d+ on"):
            log.truncate(0)
    with opened(tmp_path) as log:
        assert (log.end_offsets("a"), log.first_offset("a", 0)) == (ends, first)
        assert log.append("a", records(60))[0].base_offset == ends[0]
    assert [b.seq for b in read_directory(tmp_path)][-1] == 60


def test_what_was_not_synced_is_not_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for number in range(20):
            log.append("a", records(number))
        assert log.retain(log.next_seq, max_bytes=0) == 0


# -- threads -----------------------------------------------------------------------------------------------------------


def test_others_read_and_sync_while_one_appends(tmp_path: Path) -> None:
    """Whoever reads on from where he was sees each record once and in its place, or is told that it is gone."""
    log, done, errors = opened(tmp_path), threading.Event(), list[BaseException]()
    limit = 400

    def read() -> None:
        at = 0
        while at < 3 * limit:
            try:
                found = log.read_from("a", 0, at, max_bytes=100)
            except RecordsDropped as error:
                at = error.first
                continue
            for batch in found:
                number = batch.base_offset // 3
                assert list(batch.records) == records(number), number
                at = batch.next_offset
            assert log.offset_at("a", 0, at / 3) <= max(at, log.first_offset("a", 0))

    def scan() -> None:
        seq = 0
        while seq < limit:
            for batch in log.read(["a"], seq):
                assert batch.seq >= seq
                seq = batch.seq + 1

    def sync() -> None:
        while not done.is_set():
            assert log.sync() <= log.next_seq

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (read, read, scan, sync)]
    for thread in threads:
        thread.start()
    for number in range(limit):
        log.append("a", records(number))
        if number % 50 == 49:
            log.retain(max(number - 100, 0), max_bytes=0)
    for thread in threads[:-1]:
        thread.join(60)
    done.set()
    threads[-1].join(60)
    log.close()
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def test_another_process_reads_what_is_whole(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for number in range(30):
            log.append("a", records(number))
            assert [b.seq for b in read_directory(tmp_path)] == list(range(number + 1))
        log.sync()
        assert [tuple(b.records) for b in read_directory(tmp_path)] == [tuple(records(n)) for n in range(30)]
        log.retain(20, max_bytes=0)
        assert [b.seq for b in read_directory(tmp_path)] == list(range(log.first_seq, 30))


def test_memory_of_a_batch_is_small(tmp_path: Path) -> None:
    """Of a log with an index beside each full file, only the last indexes that were asked for are in memory."""
    filled(tmp_path, 200)
    with opened(tmp_path) as log:
        assert len(batches(log)) == 200
        held = [s for s in log._store.segments if s.index is not None]  # type: ignore[union-attr]
        assert len(held) == 1
        assert log._store._load.cache_info().currsize <= 8  # type: ignore[union-attr]


def test_a_disk_that_fails_at_the_end_does_not_keep_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(tmp_path)
    log.append("a", records(1))
    with monkeypatch.context() as failing:

        def broken(file: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        failing.setattr(os, "fsync", broken)
        with pytest.raises(LogError, match="could not be synced"):
            log.close()
    with opened(tmp_path) as again:
        assert len(batches(again)) == 1
