"""A torn end of Redis' append-only file: begun anew before we write behind it.

A script's writes stand in the file as one transaction, from MULTI to EXEC. Where a power loss cut it, Redis 7.0 drops
the command that is not whole and keeps those of the transaction before it. In memory they never happened; but the next
EXEC in the file ends them too, so that a second restart brings them back: rows ahead of their position, a journal
with an entry twice. A rewrite of the file, asked for before our first write in each life of a server, leaves them out.

Waiting for its end is not needed: once begun, our writes go to a file of their own, and the EXEC that was missing stays
missing in the old one. A server that dies before the rewrite ends cuts the old file at MULTI, says "the truncated file
is not the last file" and exits; started once more it has everything.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from redis import exceptions as rx
from redis.asyncio.connection import AbstractConnection

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.02


def parse_info(raw: bytes) -> dict[str, str]:
    r"""What ``INFO`` says.

    >>> parse_info(b"# Server\r\nredis_version:7.0.15\r\n")
    {'redis_version': '7.0.15'}
    """
    lines = (line.partition(":") for line in raw.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines if value}


async def begin_fresh_log(connection: AbstractConnection, timeout_s: float) -> None:
    """See to it that a new connection, not written to yet, writes to a file that a rewrite began in this server's life.

    ``timeout_s`` : how long it waits for a rewrite to begin: it does not beside another child of Redis (BGSAVE).

    Raises
    ------
    redis.exceptions.NoPermissionError
        Our user may not do it.
    redis.exceptions.ConnectionError
        The rewrite still waits; another try may help.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    asked = False
    # Asked of this very connection: behind one address there may be another server by now.
    while not _sound(info := await _info(connection)):
        # Asked for once, then only looked for: behind a BGSAVE it begins by itself.
        if not asked and not await _ask(connection, info):
            return
        if asked and loop.time() > until:
            raise rx.ConnectionError(
                "its append-only file is to be rewritten before we write to it (BGREWRITEAOF), and that waits for "
                "a BGSAVE to end"
            )
        asked = True
        await asyncio.sleep(_LOOK_EVERY_S)


def _sound(info: dict[str, str]) -> bool:
    """Whether no file is written, or a rewrite began in this life of the server."""
    # The count is of this life of the server, so it is 0 after every restart.
    return info.get("aof_enabled") != "1" or info.get("aof_rewrites") != "0"


async def _ask(connection: AbstractConnection, info: dict[str, str]) -> bool:
    """Ask for a rewrite; whether it will come."""
    if info.get("aof_rewrite_scheduled") == "1":
        return True
    await connection.send_command("BGREWRITEAOF")
    try:
        await connection.read_response()
    # Before its parent, which would take a missing right for a server that cannot.
    except rx.NoPermissionError:
        raise
    except rx.ResponseError as error:
        if "in progress" in str(error):  # another worker was faster
            return True
        log.warning(
            "Redis does not rewrite its append-only file (%s). Should it have lost power before, a second restart can "
            "bring back half a write: look into its log why it cannot, then run BGREWRITEAOF",
            error,
        )
        return False
    log.info("Redis rewrites its append-only file: its first write of ours since it started")
    return True


async def _info(connection: AbstractConnection) -> dict[str, str]:
    await connection.send_command("INFO", "persistence")
    return parse_info(await connection.read_response(disable_decoding=True))
