"""A disk that is full, limited or failing: the log says so, keeps what was synced, and goes on where it can."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.logged_files import SMALL, batches, opened, records
from weir.streams.embedded.embedded_log import EmbeddedLog, read_directory
from weir.streams.errors import LogError, LogFull


@settings(max_examples=60, deadline=None)
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
        patched.setattr("weir.streams.embedded.log_segments.write_durably", full)
        assert log.sync() == 20
    assert not list(tmp_path.glob("*.idx"))
    log.append("a", records(21))
    log.sync()
    assert len(list(tmp_path.glob("*.idx"))) == len(list(tmp_path.glob("*.log"))) - 1
    log.close()


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
