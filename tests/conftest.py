"""Of every test: Hypothesis without deadlines, no waiting for disks, ``async def`` tests by asyncio in bounded time.

Processes take whole files of tests; those of the console, who share one filled service, are one process's.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("weir", deadline=None)
# The same examples in every run: more of them would say little more; those of other runs are others.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci" if os.environ.get("CI") else "weir")
LONGEST_S = 300.0
"""Of one ``async def`` test: one that waits for what never comes fails, with the place where it waits."""


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
    """Replace ``--dist loadfile``: each process with a test of the console would fill a service for half a minute."""
    if config.getvalue("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)

    def scope(nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        shared = file.startswith("tests/console/") and not file.endswith("test_demo_console.py")
        return "tests/console" if shared else file

    scheduler._split_scope = scope
    return scheduler
