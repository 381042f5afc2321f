"""Which tests a process gets, and when: what is named exists, and no process holds tests that another could run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests import conftest
from tests.integration.conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[1]
KILLS = "tests/integration/test_kill_loop.py"


class Process:
    """One of xdist's, as its scheduler sees it: it runs what it is sent when it is told to."""

    def __init__(self, scheduler: Any, collection: list[str]) -> None:
        self.gateway = SimpleNamespace(id="gw")
        self.shutting_down, self.sent = False, list[str]()
        self._scheduler, self._collection = scheduler, collection
        scheduler.add_node(self)

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += [self._collection[index] for index in indices]

    def shutdown(self) -> None:
        self.shutting_down = True

    def end(self, count: int = 1) -> None:
        """Run the next tests."""
        done = [test for unit in self._scheduler.assigned_work[self].values() for test, ended in unit.items() if ended]
        for test in self.sent[len(done) : len(done) + count]:
            self._scheduler.mark_test_complete(self, self._collection.index(test))


def started(collection: list[str]) -> tuple[Any, Process, Process]:
    """The scheduler of a run, and its two processes."""
    values = {"dist": "loadfile", "tx": ["2*popen"], "px": []}
    option = SimpleNamespace(loadscopereorder=False)
    config = SimpleNamespace(getvalue=values.__getitem__, option=option, hook=None)
    scheduler = conftest.pytest_xdist_make_scheduler(config, None)  # type: ignore[arg-type]
    first, second = Process(scheduler, collection), Process(scheduler, collection)
    for process in (first, second):
        scheduler.add_node_collection(process, collection)
    scheduler.schedule()
    return scheduler, first, second


def of(file: str, count: int) -> list[str]:
    return [f"{file}::test_{number}" for number in range(count)]


def test_a_process_gets_its_next_file_before_its_last_test_and_not_earlier() -> None:
    a, b, c, d = of("a.py", 4), of("b.py", 4), of("c.py", 3), of("d.py", 1)
    _, first, second = started([*a, *b, *c, *d])
    assert (first.sent, second.sent) == (a, b)
    first.end(2)
    assert first.sent == a, "two are left: another process may have time for more before that"
    second.end(3)
    assert second.sent == [*b, *c]
    first.end()
    assert first.sent == [*a, *d]
    first.end()
    second.end()
    assert (first.shutting_down, second.sent) == (True, [*b, *c])


def test_tests_that_share_much_are_one_process_s_and_long_ones_are_given_one_by_one() -> None:
    console, learners = (
        of("tests/console/test_a.py", 3) + of("tests/console/test_b.py", 3),
        sorted(conftest._EVERY_LEARNER),
    )
    _, first, second = started([*console, *(f"{file}::test_0" for file in learners), *of(KILLS, 4)])
    assert first.sent == console
    assert second.sent == [f"{file}::test_0" for file in learners]
    second.end(len(learners) - 1)
    assert second.sent[len(learners) :] == [f"{KILLS}::test_0"]


def test_what_is_named_exists() -> None:
    for file in conftest._EVERY_LEARNER | conftest._BY_TEST:
        assert (ROOT / file).is_file(), file
    paths = [path for path in (ROOT / "tests").rglob("*") if path.suffix == ".py" or path.is_dir()]
    names = {path.name for path in paths} | {path.relative_to(ROOT).as_posix() for path in paths}
    names |= {
        name for file in conftest._BY_TEST for name in re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.M)
    }
    assert not {*LONGEST_FIRST} - names
