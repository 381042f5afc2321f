"""Checkpoints that a child writes while the host goes on: of the moment they were begun, whole, or told."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.streams.host_runs import CHURN, FRAUD, PARTITIONS, host_on, inputs, outputs, process_all, run, straight_run
from weir.online.errors import StateError
from weir.streams.embedded.checkpoint import Checkpoints
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import LogError, UsageError

WAIT_S = 60


def test_it_is_of_the_moment_at_which_it_was_begun(tmp_path: Path) -> None:
    log, made = EmbeddedLog(PARTITIONS, tmp_path / "inputs"), EmbeddedLog(directory=tmp_path / "outputs")
    host = host_on(log, outputs=made, checkpoints=tmp_path)
    run(log, host, inputs()[:20])
    host.checkpoint(b"x")
    at_once = (tmp_path / "checkpoint.bin").read_bytes()
    (tmp_path / "checkpoint.bin").unlink()
    pending = host.begin_checkpoint(b"x")
    run(log, host, inputs()[20:])
    assert pending.result(WAIT_S) is None
    assert (tmp_path / "checkpoint.bin").read_bytes() == at_once
    log.close()
    made.close()
    with EmbeddedLog(PARTITIONS, tmp_path / "inputs") as log, EmbeddedLog(directory=tmp_path / "outputs") as made:
        host = host_on(log, outputs=made, checkpoints=tmp_path)
        assert (host.resume(), host.resumed_extra) == (True, b"x")
        process_all(host)
        assert outputs(made) == straight_run().outputs


def test_one_after_another_each_is_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(5):
        checkpoints.fork(lambda number=number: b"%d" % number)()  # type: ignore[misc]
        assert checkpoints.newest() == b"%d" % number
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.bin"]


def fails() -> bytes:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_killed() -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


@pytest.mark.parametrize(
    ("make", "why"), [(fails, "OSError: .*No space left on device"), (is_killed, "the child ended with status 9")]
)
def test_a_child_that_fails_is_told_and_the_one_before_stays(
    tmp_path: Path, make: Callable[[], bytes], why: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(b"before")
    put_in_place = checkpoints.fork(make)
    with pytest.raises(StateError, match=f"could not be written: {why}; the one before it stays"):
        put_in_place()
    assert checkpoints.newest() == b"before"


def test_it_is_not_in_place_before_the_logs_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log, FRAUD, CHURN, checkpoints=tmp_path)
    run(log, host, inputs()[:3])
    host.checkpoint()
    before = (tmp_path / "checkpoint.bin").read_bytes()
    run(log, host, inputs()[3:6])

    def broken() -> int:
        raise LogError("could not be synced")

    monkeypatch.setattr(log, "sync", broken)
    with pytest.raises(LogError, match="could not be synced"):
        host.begin_checkpoint().result(WAIT_S)
    assert (tmp_path / "checkpoint.bin").read_bytes() == before


def test_a_child_holds_nothing_open_that_a_restart_needs(tmp_path: Path) -> None:
    """Such as the lock of the directory, or the port."""
    checkpoints = Checkpoints(tmp_path)
    with (tmp_path / "lock").open("w"):

        def held() -> bytes:
            return msgspec.json.encode(
                {n: str(Path(f"/proc/self/fd/{n}").readlink()) for n in range(3, 64) if _open(n)}
            )

        checkpoints.fork(held)()
    made: dict[str, str] = msgspec.json.decode(checkpoints.newest() or b"", type=dict[str, str])
    assert [name.partition(":")[0] for name in made.values()] == ["pipe"]


def test_a_child_lets_go_before_it_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits for its turn would keep the lock of a killed service from the one that takes its place."""

    def gives_way(_: int) -> int:
        assert not any(_open(n) for n in range(4, 64))
        return 0

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(os, "nice", gives_way)
    checkpoints.fork(lambda: b"whole")()
    assert checkpoints.newest() == b"whole"


def _open(number: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_signals_of_the_parent_are_not_handled_in_the_child(tmp_path: Path) -> None:
    seen: list[Any] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(os.getpid()))
    try:

        def terminated() -> bytes:
            os.kill(os.getpid(), signal.SIGTERM)
            return b"%d" % len(seen)

        Checkpoints(tmp_path).fork(terminated)()
        assert Checkpoints(tmp_path).newest() == b"0"
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    for name in ("checkpoint.77.part", ".checkpoint.77.part.77-1.tmp"):
        (tmp_path / name).write_bytes(b"half")
    Checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_host_without_a_directory_says_so() -> None:
    with pytest.raises(UsageError, match="keeps no state"):
        host_on(EmbeddedLog(), FRAUD).begin_checkpoint()


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_child_that_cannot_be_made_is_told_alike_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(b"before")

    def no_more() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", no_more)
    there = _open_files()
    put_in_place = checkpoints.fork(lambda: b"after")
    assert _open_files() == there
    with pytest.raises(StateError, match=r"no child can be made .*temporarily unavailable.*; the one before it stays"):
        put_in_place()
    assert checkpoints.newest() == b"before"
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
