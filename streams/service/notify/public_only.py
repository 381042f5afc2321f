"""Keeps what runs within from connecting to private addresses, whichever library it uses and however it finds them.

Python tells an audit hook of each connection, with the address that it goes to. So it sees a name that resolves to
another address the second time, a redirect, and a library that asks nobody. Only what runs
within is held back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

_CALLS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_GLOBAL: Final = IPv6Network("2000::/3")
"""All that is routed; Python calls others global, too, such as old ways to write private IPv4 addresses."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
_refused: Final[ContextVar[list[str] | None]] = ContextVar("weir_refused", default=None)
"""Addresses that were refused; ``None`` where any may be connected to."""


@contextmanager
def public_only(wanted: bool) -> Iterator[list[str]]:
    """Where ``wanted``, refuse private, loopback and link-local addresses within; gives those that were refused."""
    _watch()
    refused: list[str] = []
    token = _refused.set(refused if wanted else None)
    try:
        yield refused
    finally:
        _refused.reset(token)


@cache
def _watch() -> None:
    # Once for the process: a hook can not be taken away again.
    sys.addaudithook(_look)


def _look(event: str, given: tuple[Any, ...]) -> None:
    # Every import and every open file comes by here: most are let go by the first look.
    if event in _CALLS and (refused := _refused.get()) is not None:
        host = given[1][0] if isinstance(given[1], tuple) else str(given[1])
        if not is_public(host):
            refused.append(host)
            raise PermissionError(f"{host} is no public address")


def is_public(host: str) -> bool:
    """Whether an address is one of the internet's; what is no address is not.

    >>> [is_public(a) for a in ("8.8.8.8", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1", "x")]
    [True, False, False, False, False, False, False]
    >>> [is_public(a) for a in ("2a00::1", "64:ff9b::808:808", "::127.0.0.1", "fec0::1", "64:ff9b:1::a00:1")]
    [True, True, False, False, False]
    """
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    found: list[IPv4Address | IPv6Address | None] = [ip]
    if isinstance(ip, IPv6Address):  # it may hold one of the older kind
        if ip not in _GLOBAL and ip not in _NAT64:
            return False
        found += [ip.sixtofour, IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None]
    return all(each is None or (each.is_global and not each.is_multicast) for each in found)
