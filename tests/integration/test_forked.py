"""A forked process is what a started one is: arguments, environment, folder, output, signals, exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.forked import Forks, Process

TELLS = """
import json, os, sys
print(json.dumps([__name__, sys.argv[1:], os.getcwd(), dict(os.environ), sys.path[0]]), flush=True)
print("it failed", file=sys.stderr)
if "wait" in sys.argv:
    sys.stdin.read()
    import signal
    signal.pause()
sys.exit(7)
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks(("json",))
    yield made
    made.close()


@pytest.fixture
def told(tmp_path: Path) -> Path:
    (tmp_path / "told.py").write_text(TELLS)
    return tmp_path / "out"


def begin(forks: Forks, kind: str, out: Path, *words: str) -> Process:
    command, environment = ["-m", "told", *words], {**forks.environment, "WEIR_X": "1"}
    with out.open("wb") as file:
        if kind == "forked":
            return forks.start(command, environment, out.parent, file.fileno())
        return subprocess.Popen(
            [sys.executable, *command], cwd=out.parent, env=environment,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip


def test_it_is_as_one_that_was_started(forks: Forks, told: Path) -> None:
    said = []
    for kind in ("started", "forked"):
        assert begin(forks, kind, told, "a", "--b=c").wait(60) == 7
        first, second = told.read_text().splitlines()
        assert second == "it failed"
        said.append(json.loads(first))
    assert said[0] == said[1]
    assert said[1][:2] == ["__main__", ["a", "--b=c"]]


def test_several_run_at_once_and_end_by_their_signals(forks: Forks, told: Path, tmp_path: Path) -> None:
    several = [begin(forks, "forked", tmp_path / f"{number}", "wait") for number in range(3)]
    assert len({process.pid for process in several}) == 3
    assert [process.poll() for process in several] == [None] * 3
    with pytest.raises(subprocess.TimeoutExpired):
        several[0].wait(0.01)
    several[1].kill()
    assert several[1].wait(60) == -signal.SIGKILL
    several[2].send_signal(signal.SIGTERM)
    assert several[2].wait(60) == -signal.SIGTERM
    assert several[0].poll() is None
    several[0].kill()
    assert several[0].wait(60) == -signal.SIGKILL
    several[0].kill()  # nothing happens


def test_variables_that_imports_read_are_those_of_the_process_that_forks(forks: Forks) -> None:
    assert forks.suits({**forks.environment, "WEIR_REDIS__PREFIX": "x"})
    without = {name: value for name, value in forks.environment.items() if name != "PYTHONFAULTHANDLER"}
    assert forks.suits(without)
    assert not forks.suits({**forks.environment, "NUMBA_DEBUG_CACHE": "1"})
    assert not forks.suits({**forks.environment, "OMP_NUM_THREADS": "2"})
    assert not forks.suits({name: value for name, value in os.environ.items() if name != "PATH"})
