"""What has to be so before ``weir features rebuild`` touches anything: it is alone at work, and all tasks are named."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Final, TypeVar

from weir.streams.checks.state_checks import stages_of
from weir.streams.config.settings import Settings
from weir.streams.errors import ShellError, StateError, UsageError, WeirError
from weir.streams.ops.command_user import caller
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.store_errors import StoreUnavailable
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.redis.topic_identity import StoredIdentity
from weir.streams.worker.identity.topic_check import active_members

log = logging.getLogger(__name__)
GRACE_S: Final = 2.0
POLL_S: Final = 0.5
CUT_SHORT: Final = (
    "The rebuild was cut short, and until one has come to its end workers refuse to start: run the same command again"
)
_T = TypeVar("_T")


def groups_of(settings: Settings) -> list[str]:
    """The groups that workers may be in."""
    return [settings.worker.group_id(role) for role in ("all", "score", "label")]


async def nobody_runs(settings: Settings) -> None:
    """Wait for workers that ended without a word, which their group counts for so long; raises ``UsageError``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.worker.session_timeout_s + GRACE_S
    while busy := [group for group in groups_of(settings) if await active_members(settings.kafka, group)]:
        if loop.time() > deadline:
            raise UsageError(
                f"workers of group {', '.join(busy)} are running, and would write the same rows; stop them"
            )
        await asyncio.sleep(POLL_S)


async def alone(link: RedisClient, lease_s: float, work: Callable[[StoredRebuild], Coroutine[None, None, _T]]) -> _T:
    """Do the work of a rebuild as the only one on this store; raises ``UsageError`` where another is at it.

    ``lease_s`` is how long one that was killed keeps others waiting.
    """
    kept = StoredRebuild(link, by=f"{caller()}@{socket.gethostname()}, process {os.getpid()}")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + lease_s + GRACE_S
    while by := await kept.hold(lease_s):
        if loop.time() > deadline:
            raise UsageError(f"another 'weir features rebuild' is at work on this store ({by}); wait for its end")
        await asyncio.sleep(POLL_S)
    working, living = asyncio.ensure_future(work(kept)), asyncio.ensure_future(_live(kept, lease_s))
    try:
        await asyncio.wait({working, living}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await living  # it ends by an error only
        return await working
    except WeirError as error:
        if kept.begun:
            raise ShellError(f"{error}. {CUT_SHORT}") from error
        raise
    except asyncio.CancelledError:  # somebody pressed Ctrl-C
        if kept.begun:
            log.warning(CUT_SHORT)
        raise
    finally:
        working.cancel()
        living.cancel()
        ends = await asyncio.gather(working, living, return_exceptions=True)
        if not any(isinstance(end, StoreUnavailable) for end in ends):  # it runs out by itself
            await kept.let_go()


async def _live(kept: StoredRebuild, lease_s: float) -> None:
    """Give a sign of life for ever; raises ``UsageError`` where another took this one for dead."""
    while True:
        await asyncio.sleep(lease_s / 4)
        if by := await kept.hold(lease_s):
            kept.begun = False  # it is the other's by now
            raise UsageError(
                f"this process stood still for {lease_s:g} s, and another rebuild began ({by}); nothing to do here"
            )


async def check_tasks(link: RedisClient, given: Collection[str], drop: Collection[str]) -> None:
    """Raises ``UsageError`` where tasks are stored that are neither given nor to be dropped: they would be cleared."""
    held = await _stored_tasks(link)
    if both := sorted({*given} & {*drop}):
        raise UsageError(f"--drop {both[0]}: its task file is among those given; leave out one of the two")
    if unknown := sorted({*drop} - held):
        raise UsageError(
            f"--drop {unknown[0]}: nothing is stored of such a task; stored are: {', '.join(sorted(held)) or 'none'}"
        )
    if missing := sorted(held - {*given} - {*drop}):
        raise UsageError(
            f"rows, or predictions that wait, are also stored of {', '.join(missing)}, and would be cleared. Name the "
            "task files of all that still run (--task), and say of a retired one that everything stored of it goes: "
            f"{' '.join(f'--drop {task}' for task in missing)}"
        )


async def begin(kept: StoredRebuild, settings: Settings) -> None:
    """Keep workers from starting; where one just did, all is as it was, and it raises ``UsageError``."""
    before = await kept.under_way()
    await kept.begin()
    try:
        # Again: whoever joined its group since sees that this has begun, or is seen here.
        await nobody_runs(settings)
    except ShellError:
        if not before:
            await kept.done()
        raise


async def _stored_tasks(link: RedisClient) -> set[str]:
    """Those that have tables of rows, or predictions in a label lane; a task may have either alone."""
    identity = StoredIdentity(link)
    found = await identity.tasks()
    for partition in range(await identity.partitions() or 0):
        with suppress(StateError):  # one that cannot be read is filled anew
            lane = await StepLog(link, f"label-{partition}").load()
            found |= stages_of(lane.snapshot).keys() if lane.snapshot is not None else set()
    return found
