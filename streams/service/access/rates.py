"""How much a caller may ask for in a second, and how slowly secrets may be guessed."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from weir.streams.config.serve_settings import AccessSettings
from weir.streams.service.access.scopes import Caller
from weir.streams.service.parts import Problem

_CALLERS: Final = 10_000
_FREE_FAILURES: Final = 5
"""So many wrong secrets of an address are only answered by 401."""
_LONGEST_S: Final = 300.0


@dataclass(slots=True)
class Bucket:
    """Tokens that refill with time, up to those of two seconds; it may go below zero once, and is then waited for.

    So a body of more records than a second allows is taken, and paid for by the ones after it.
    """

    level: float
    at: float

    def take(self, amount: float, per_s: float, now: float) -> float:
        """Take ``amount`` where one is left; else seconds until there is, and nothing is taken."""
        self.level = min(_full(per_s), self.level + (now - self.at) * per_s)
        self.at = now
        if self.level < 1.0:
            return (1.0 - self.level) / per_s
        self.level -= amount
        return 0.0


def _full(per_s: float) -> float:
    # At least one: else a rate of less than one in two seconds would never come to a whole token.
    return max(1.0, 2.0 * per_s)


class Rates:
    """Requests and records of each caller.

    Parameters
    ----------
    settings : limits of those who have none of their own.
    clock : seconds that only grow.
    """

    def __init__(self, settings: AccessSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self.taken: Counter[str] = Counter()
        """Records of each caller's id, since somebody counted them last."""

    def take_request(self, caller: Caller) -> None:
        """Count a request; raises ``Problem`` (429) where there were too many."""
        self._take("requests", caller, 1, caller.requests_per_s or self._settings.requests_per_s)

    def take_records(self, caller: Caller, records: int) -> None:
        """Count events or labels; raises ``Problem`` (429), before any of them is taken."""
        self.taken[caller.id] += records
        self._take("records", caller, records, caller.records_per_s or self._settings.records_per_s)

    def _take(self, what: str, caller: Caller, amount: int, per_s: float) -> None:
        now = self._clock()
        bucket = self._buckets.get((what, caller.id))
        if bucket is None:
            bucket = self._buckets[what, caller.id] = Bucket(_full(per_s), now)
            if len(self._buckets) > 2 * _CALLERS:
                # Only who is known has a bucket, so that nobody pushes the others' out by made-up names.
                self._buckets.popitem(last=False)
        if wait_s := bucket.take(amount, per_s, now):
            words = f"{caller.name} may send {per_s:g} {what} a second; wait {wait_s:.1f} s"
            fix = f"send fewer, or raise {what}_per_s of the key or in [serve.access]"
            raise Problem(429, "Too fast", words, headers=_after(wait_s), limit=per_s, fix=fix)


class FailedLogins:
    """Wrong secrets by address: each beyond some doubles the time for which no more are looked at.

    Parameters
    ----------
    clock : seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def allow(self, address: str) -> None:
        """Raise ``Problem`` (429) where the address has to wait."""
        _, until = self._failures.get(_network(address), (0, 0.0))
        wait_s = until - self._clock()
        if wait_s > 0:
            words, fix = f"{address} sent wrong secrets; wait {wait_s:.0f} s", "correct the key, and wait"
            raise Problem(429, "Too many wrong secrets", words, headers=_after(wait_s), fix=fix)

    def failed(self, address: str) -> None:
        """Count a wrong one."""
        network, now = _network(address), self._clock()
        count, until = self._failures.pop(network, (0, now))
        count = 1 if now - until > _LONGEST_S else count + 1
        # No higher power than is needed: a program that tries a wrong key for days comes to one that is no float.
        beyond = min(count - _FREE_FAILURES, math.ceil(math.log2(_LONGEST_S)))
        pause_s = min(_LONGEST_S, 2.0**beyond) if beyond > 0 else 0.0
        self._failures[network] = (count, now + pause_s)
        if len(self._failures) > _CALLERS:
            self._failures.popitem(last=False)


def _after(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(wait_s))}


def _network(address: str) -> str:
    """What one person may have many addresses of: of IPv6 the first 64 bits."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    return str(int(ip) >> 64) if isinstance(ip, IPv6Address) else address
