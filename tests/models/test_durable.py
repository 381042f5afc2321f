"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from weir.models.durable import write_durably


def half(file: Any) -> None:
    file.write(b"half")
    raise RuntimeError("the disk is full")


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside(tmp_path: Path, exclusive: bool) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError, match="full"):
        write_durably(path, half, exclusive=exclusive)
    assert list(path.parent.iterdir()) == []
    write_durably(path, lambda file: file.write(b"whole"), exclusive=exclusive)
    with pytest.raises(RuntimeError, match="full"):
        write_durably(path, half, exclusive=exclusive)
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"whole"]


def test_a_file_is_replaced_unless_it_must_be_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, lambda file: file.write(b"1"))
    write_durably(path, lambda file: file.write(b"2"))
    with pytest.raises(FileExistsError):
        write_durably(path, lambda file: file.write(b"3"), exclusive=True)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"2"]


def test_of_threads_that_make_one_file_exactly_one_does(tmp_path: Path) -> None:
    start, made = threading.Barrier(8), []

    def make(number: int) -> None:
        start.wait()
        try:
            write_durably(tmp_path / "file", lambda file: file.write(bytes([number]) * 9_000), exclusive=True)
        except FileExistsError:
            return
        made.append(number)

    threads = [threading.Thread(target=make, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [bytes(made) * 9_000]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_durably(tmp_path / "file", lambda file: file.write(b"1"))
    assert done == ["file", "rename", "folder"]


def test_folders_that_are_made_for_a_file_last_as_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    monkeypatch.setattr("os.fsync", noted)
    write_durably(tmp_path / "fraud" / "1" / "claim.json", lambda file: file.write(b"1"), exclusive=True)
    assert [each for each in synced if each.is_dir()] == [tmp_path, tmp_path / "fraud", tmp_path / "fraud" / "1"]
    synced.clear()
    write_durably(tmp_path / "fraud" / "1" / "model.onnx", lambda file: file.write(b"1"), exclusive=True)
    assert [each for each in synced if each.is_dir()] == [tmp_path / "fraud" / "1"], "what was there is there"
