"""Of every test: Hypothesis without deadlines, no waiting for disks, ``async def`` tests by asyncio in bounded time."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("weir", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
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
