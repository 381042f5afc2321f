"""Of every test: Hypothesis without deadlines, no waiting for disks, ``async def`` tests by asyncio in bounded time.

Processes take whole files of tests; those of the console, which share one filled service, are one process's, and so are
those of every learner, which share its kernels. Of files whose tests take a minute each, they take single tests.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import re
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("weir", deadline=None)
# The same examples in every run: more of them would say little more; those of other runs are others.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "weir")
LONGEST_S = 300.0
"""Of one ``async def`` test: one that waits for what never comes fails, with the place where it waits."""
_EVERY_LEARNER: Final = {
    f"tests/online/test_{name}.py"
    for name in ("hoeffding_state", "hoeffding_trees", "hostile_rows", "learner_contract", "reasons_true")
}
_BY_TEST: Final = {"tests/integration/test_kill_loop.py", "tests/integration/test_trouble.py"}
_TESTS: Final = Path(__file__).parent
_ALL_INTEGRATION: Final = re.compile(r"^pytestmark = (\[[^]]*)?pytest\.mark\.integration", re.MULTILINE)


class Needed:
    """Modules that have no test for a run are not imported: each of the processes of xdist would, for half its time.

    Parameters
    ----------
    marks : of the tests of the run, as ``-m`` gives them.
    """

    def __init__(self, marks: str) -> None:
        self._marks = marks

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out a module, or a folder of the tests with its ``conftest.py``, with neither tests nor examples."""
        if not collection_path.is_dir():
            return None if self._has_some(collection_path) else True
        modules = collection_path.rglob("*.py")
        return True if collection_path.is_relative_to(_TESTS) and not any(map(self._has_some, modules)) else None

    def _has_some(self, module: Path) -> bool:
        if module.suffix != ".py":
            return True
        tests = module.name.startswith("test_")
        if self._marks == "integration":  # a module takes the mark, or what has it, by this name
            return tests and "integration" in module.read_text()
        every = self._marks != "not integration"
        return _has_examples(module) or (tests and (every or _ALL_INTEGRATION.search(module.read_text()) is None))

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(self, file_path: Path) -> Generator[None, list[Any], list[Any]]:
        """No search for examples, object by object, where there are none."""
        found = yield
        return [each for each in found if not isinstance(each, DoctestModule) or _has_examples(file_path)]


@cache
def _has_examples(module: Path) -> bool:
    return ">>>" in module.read_text()


def pytest_configure(config: pytest.Config) -> None:
    """A plugin, as the hooks of a ``conftest.py`` are asked about its own folder only."""
    config.pluginmanager.register(Needed(config.option.markexpr), "needed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Millions of objects of all modules stay until the end; the garbage collector does not look at them again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 10, 20)  # as often as before is a tenth of the time of many tests
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What runs them; anyio would run each in every framework that is installed."""
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def no_power_cut() -> Iterator[None]:
    """Processes die in tests, and the power never fails: thousands of times nobody waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def pytest_itemcollected(item: pytest.Item) -> None:
    """Bound each ``async def`` test."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        test = item.obj

        @functools.wraps(test)
        async def bounded(**arguments: Any) -> None:
            async with asyncio.timeout(LONGEST_S):
                await test(**arguments)

        item.obj = bounded


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Replace ``--dist loadfile``, as processes would do the same for half a minute each.

    That is to fill a service for tests of the console, and to compile the kernels of every learner. And a process gets
    its next file before its last test, not before the last but one: files behind a long test would wait at the end,
    while the other processes have nothing to do. (It has to know what follows to run a test, so not later either.)
    """
    if config.getvalue("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)

    def scope(nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in _EVERY_LEARNER:
            return "every learner"
        if file in _BY_TEST:
            return nodeid
        shared = file.startswith("tests/console/") and not file.endswith("test_demo_console.py")
        return "tests/console" if shared else file

    def more(node: Any) -> None:
        if not scheduler.workqueue or scheduler._pending_of(scheduler.assigned_work[node]) < 2:
            LoadFileScheduling._reschedule(scheduler, node)

    scheduler._split_scope, scheduler._reschedule = scope, more
    return scheduler
