"""What a command writes is there whole or not at all, and a full disk is one sentence."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weir.streams.errors import UsageError
from weir.streams.whole_files import read_whole, write_whole

_LITTLE_SPACE = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from weir.models.durable import write_durably
from weir.streams.backtest.alert_log import AlertLog
from weir.streams.backtest.run_outputs import RowFile
from weir.streams.errors import UsageError
from weir.streams.simulate.sinks import JsonlSink, ParquetSink
from weir.streams.whole_files import write_whole
class Alerts(AlertLog):
    def lines(self):
        return iter([b"x" * 40] * 3)
def rows(path):
    file = RowFile(path, pa.schema({"x": pa.string()}))
    try:
        for i in range(9):
            file.write(pa.table({"x": [f"{i}" * 20]}))
    finally:  # as a run does, which leaves whole files however it ends
        file.close()
def simulated(sink):
    with sink(path.parent, ["labels", "user-events"]) as made:
        for i in range(9):
            made.write([("user-events", b"", b'{"user_id": "%040d"}' % i, 0.0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
path = Path(sys.argv[1])
try:
    eval(sys.argv[2])
except (UsageError, OSError) as exc:
    print(exc)
"""
"""A process of its own: the limit is of all threads and files of one, those of the tests before too."""


def with_little_space(path: Path, write: str) -> str:
    """Run ``write`` where a file may have 100 bytes; what it raised."""
    command = [sys.executable, "-c", _LITTLE_SPACE, str(path), write]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("write", "said"),
    [
        ("Alerts().write(path)", r"/kept cannot be written: File too large; check"),
        ("rows(path)", r"/kept cannot be written: File too large; check"),
        ("write_durably(path, lambda file: file.write(b'x' * 101))", r"File too large: '.*/kept'$"),
    ],
)
def test_whatever_is_written_takes_its_place_at_the_end_and_a_full_disk_is_told_with_it(
    write: str, said: str, tmp_path: Path
) -> None:
    target = tmp_path / "kept"
    target.write_bytes(b"before")
    assert re.search(said, with_little_space(target, write).strip())
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("kept", b"before")]


@pytest.mark.parametrize(("sink", "form"), [("JsonlSink", "jsonl"), ("ParquetSink", "parquet")])
def test_a_simulation_that_cannot_be_written_leaves_no_file_of_it(sink: str, form: str, tmp_path: Path) -> None:
    before = tmp_path / f"labels.{form}"
    before.write_bytes(b"before")
    said = with_little_space(before, f"simulated({sink})")
    assert re.search(r"cannot be written: File too large; check its rights and the free space$", said.strip())
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [(before.name, b"before")]


_IS_KILLED = """
import os, sys
from pathlib import Path
from weir.streams.whole_files import whole
with whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_a_run_after_one_that_was_killed_takes_away_what_that_left(tmp_path: Path) -> None:
    target, others = tmp_path / "scores.parquet", tmp_path / "alerts.jsonl"
    for path in (target, others):
        killed = subprocess.Popen([sys.executable, "-c", _IS_KILLED, str(path)])
        assert killed.wait(60) == -9
    # Of the other command; of a process that is at work; of one in another container, whose number is nobody's here.
    (left,) = tmp_path.glob(".alerts.jsonl.*")
    works = tmp_path / f".scores.parquet.{os.getppid()}-1.tmp"
    works.touch()
    elsewhere = tmp_path / f".scores.parquet.{killed.pid}-2.tmp"
    swap = tmp_path / ".scores.parquet.swp"
    swap.touch()
    with elsewhere.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert len(list(tmp_path.iterdir())) == 5
        write_whole(target, b"whole")
        assert {*tmp_path.iterdir()} == {target, left, works, elsewhere, swap}
    write_whole(target, b"whole")
    assert {*tmp_path.iterdir()} == {target, left, works, swap}


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    target, link = tmp_path / "task.toml", tmp_path / "link.toml"
    write_whole(target, b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    said = with_little_space(link, "write_whole(path, b'x' * 101)")
    assert re.search(r"link.toml cannot be written: .*check its rights and the", said)
    assert (target.read_bytes(), sorted(each.name for each in tmp_path.iterdir())) == (
        b"before", ["link.toml", "task.toml"],
    )  # fmt: skip
    write_whole(link, b"after")
    assert (link.is_symlink(), target.read_bytes(), target.stat().st_mode & 0o777) == (True, b"after", 0o640)


def test_what_is_no_file_is_written_to_and_not_replaced() -> None:
    full, null = Path("/dev/full"), Path("/dev/null")
    with pytest.raises(UsageError, match=r"/dev/full cannot be written: .*No space left"):
        write_whole(full, b"x")
    write_whole(null, b"x")
    assert full.is_char_device()
    assert null.is_char_device()


_FAILS = """
import sys
from weir.streams.cli import app as tree
from weir.streams.cli import main
def app(**_):
    raise eval(sys.argv[1])
tree.app = app
main.run()
"""
"""A process of its own: where threads are left, as of the tests before, the command ends the process there and then."""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        # Before the command has begun.
        ("KeyboardInterrupt()", 130, ""),
        (
            f"OSError({errno.ENOSPC}, 'No space left on device')",
            2, "error: No space left on device: free some, also for temporary files, and run it again\n",
        ),
    ],
)  # fmt: skip
def test_what_ends_a_command_from_outside_is_no_traceback(error: str, status: int, said: str) -> None:
    ran = subprocess.run([sys.executable, "-c", _FAILS, error], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (status, said)


@pytest.mark.parametrize("left", [0, 5, 8])
def test_a_file_that_loses_its_end_while_it_is_read_is_not_taken_for_a_short_one(tmp_path: Path, left: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")

    def lines() -> list[bytes]:
        found = []
        with read_whole(path) as file:
            for line in file:
                found.append(line)
                os.truncate(path, left)
        return found

    with pytest.raises(UsageError, match=rf"events\.jsonl became shorter while it was read, from 14 to {left} bytes"):
        lines()


def test_one_that_grows_or_is_replaced_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"one\n")
    with read_whole(path) as file:
        with path.open("ab") as more:
            more.write(b"two\n")
        other = tmp_path / "other"
        other.write_bytes(b"x")
        other.rename(path)
        assert file.read() == b"one\ntwo\n"
