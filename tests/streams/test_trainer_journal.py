"""The trainer's journal: of many writers of an entry one succeeds, and what cannot be read is not overwritten."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from weir.models.registry.registry import open_files
from weir.online.errors import StateError
from weir.streams.trainer.state_journal import FilesJournal, Journal, MemoryJournal
from weir.streams.trainer.task_state import TaskState, decode, encode


@pytest.fixture(params=["memory", "directory", "object store"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    where = str(tmp_path) if request.param == "directory" else f"memory://j{os.urandom(4).hex()}"
    return FilesJournal(open_files(where))


def test_of_many_writers_of_one_entry_one_succeeds(journal: Journal) -> None:
    assert journal.newest("fraud") is None
    for number in range(1, 6):
        won: list[int] = []
        barrier = threading.Barrier(4)

        def write(who: int, number: int = number, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if journal.append("fraud", number, b"%d" % who):
                won.append(who)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert journal.newest("fraud") == (number, b"%d" % won[0])
    assert journal.newest("churn") is None


def test_old_entries_go_and_a_writer_from_long_ago_does_not_get_in(tmp_path: Path) -> None:
    journal = FilesJournal(open_files(str(tmp_path)))
    for number in range(1, 121):
        assert journal.append("fraud", number, b"x")
    assert len(list((tmp_path / "fraud" / "trainer").iterdir())) <= 51
    assert not journal.append("fraud", 12, b"late"), "its place is free, and its time is over"
    assert journal.newest("fraud") == (120, b"x")


def test_a_journal_that_cannot_be_read_is_said_and_not_overwritten() -> None:
    journal = MemoryJournal()
    journal.append("fraud", 1, b"{broken")
    with pytest.raises(StateError, match="not a trainer's journal"):
        decode(b"{broken", "entry 1")
    with pytest.raises(StateError, match="format 9"):
        decode(encode(TaskState("fraud", v=9)), "entry 1")
