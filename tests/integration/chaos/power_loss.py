"""A crash of Redis' machine: the process dies, and with it what its log had not on disk, up to the last second.

SIGKILL alone loses nothing, as the kernel still writes what the process gave it. With ``appendfsync everysec`` a power
cut does lose it, so the end of the append-only file is cut off before Redis starts again.
"""

from __future__ import annotations

import random
import threading

from tests.integration.redis_server import RedisServer


def lose_power(store: RedisServer, rng: random.Random) -> None:
    """Kill it, cut off a random part of what it wrote in the last second, start it again."""
    log = store.appended
    safe = log.stat().st_size if log is not None else 0
    threading.Event().wait(rng.uniform(0.2, 1.0))  # what is written now is what can be lost
    store.kill()
    if log is not None and log == store.appended:  # else Redis began a new file meanwhile, and all of the old is safe
        with log.open("r+b") as file:
            file.truncate(rng.randint(safe, log.stat().st_size))
    store.start()
