"""The files of an embedded log: their index, readers in other threads and processes, retention."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.streams.logged_files import SMALL, batches, opened, records
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch, read_directory
from weir.streams.embedded.log_frames import frames
from weir.streams.errors import LogError, RecordsDropped


def filled(folder: Path, n: int = 60) -> list[LoggedBatch]:
    with EmbeddedLog(directory=folder, segment_bytes=SMALL) as log:
        for number in range(n):
            log.append("ab"[number % 2], records(number))
        return batches(log)


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
