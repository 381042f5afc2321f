"""Sends one delivery to one target, and says what the receiver answered. It blocks: a thread of its own calls it.

What runs within `public_only` connects to no private address, whichever library it uses and however it finds one.
Python tells an audit hook of each connection, with the address that it goes to. So it sees a name that resolves to
another address the second time, a redirect, and a library that asks nobody.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from weir.streams.config.notify_settings import NotifyTarget
from weir.streams.errors import UsageError, in_words
from weir.streams.service.notify.messages import Delivery, document_of, link_of, moment, text_of, title_of
from weir.streams.text import printable

_TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
_WHOLE_S: Final = 30.0
"""So long a whole request may take."""
STANDS_S: Final = 180.0
"""An alert that is not told again for so long has ended, to Alertmanager."""


class Answer(NamedTuple):
    """What a receiver said."""

    ok: bool
    words: str
    wait_s: float = 0.0
    """How long it asks to be left alone."""


def check_target(target: NotifyTarget) -> None:
    """Raise ``UsageError`` for a target that nothing could be sent to."""
    try:
        if target.kind == "apprise":
            _apprise(target)
        _signed(target, "", b"")
    except ModuleNotFoundError as exc:
        raise UsageError(f"target {target.name} needs {exc.name}: pip install 'weir[serve]'") from exc


def deliver(target: NotifyTarget, delivery: Delivery, base: str | None) -> Answer:
    """Send it; whatever goes wrong is an answer. ``base`` is the address of the service, for links."""
    send = {"apprise": _by_apprise, "webhook": _by_webhook, "alertmanager": _by_alertmanager}[target.kind]
    with public_only(not target.allow_private) as refused:
        try:
            answer = send(target, delivery, base)
        except Exception as exc:  # noqa: BLE001 - of any of a hundred libraries; its text may hold the URL
            answer = Answer(False, in_words(exc) if isinstance(exc, httpx.TransportError) else type(exc).__name__)
    if refused:
        words = f"{refused[0]} is a private address; set allow_private = true for target {target.name} to allow it"
        answer = Answer(False, words)
    return answer._replace(words=printable(answer.words, 300))


def _by_apprise(target: NotifyTarget, delivery: Delivery, base: str | None) -> Answer:
    title, body = text_of(delivery, base)
    result = _apprise(target).notify(body=body, title=title, body_format="text")
    said = " ".join(entry.message for entry in result.logs())
    return Answer(bool(result), said or ("delivered" if result else "not delivered"))


def _apprise(target: NotifyTarget) -> Any:
    import apprise

    logging.getLogger("apprise").propagate = False  # it writes URLs that it does not understand
    made = apprise.Apprise(asset=apprise.AppriseAsset(http_redirects=False))
    if not made.add(target.url.get_secret_value()):
        raise UsageError(f"target {target.name}: apprise knows no such URL; its documentation has them all")
    return made


def _by_webhook(target: NotifyTarget, delivery: Delivery, base: str | None) -> Answer:
    body = msgspec.json.encode(document_of(delivery, base))
    return _post(target.url.get_secret_value(), body, _signed(target, delivery.id, body))


def _signed(target: NotifyTarget, message_id: str, body: bytes) -> dict[str, str]:
    """Headers of Standard Webhooks, with a signature by each secret: a receiver may know the old or the new one."""
    from standardwebhooks import Webhook

    now = datetime.fromtimestamp(int(time.time()), UTC)
    signatures = [Webhook(s.get_secret_value()).sign(message_id, now, body.decode()) for s in target.secrets]
    return {
        "webhook-id": message_id, "webhook-timestamp": f"{now.timestamp():.0f}",
        "webhook-signature": " ".join(signatures),
    }  # fmt: skip


def _by_alertmanager(target: NotifyTarget, delivery: Delivery, base: str | None) -> Answer:
    """Say which alerts stand now and which have ended; what is not repeated ends by itself."""
    now = time.time()
    alerts = []
    for m in delivery.messages:
        ended = m.what == "resolved" or (m.what == "judged" and m.verdict != "unsure")
        labels = {"alertname": "WeirAlert", "entity": m.entity_id}
        labels |= {name: getattr(m, name) for name in ("rule", "task", "alert_id", "severity")}
        times = {"startsAt": moment(m.opened_at), "endsAt": moment(now if ended else now + STANDS_S)}
        annotations = {"summary": title_of(m), "description": "\n".join(m.reasons)}
        alerts.append({"labels": labels, "annotations": annotations, "generatorURL": link_of(m, base), **times})
    return _post(f"{target.url.get_secret_value().rstrip('/')}/api/v2/alerts", msgspec.json.encode(alerts), {})


@cache
def _tls() -> Any:
    return httpx.create_ssl_context()  # dear, and the same for all


def _post(url: str, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        return asyncio.run(_posted(url, body, headers))
    except TimeoutError:
        return Answer(False, f"no answer within {_WHOLE_S:g} s")


async def _posted(url: str, body: bytes, headers: dict[str, str]) -> Answer:
    told = {"content-type": "application/json", "user-agent": f"weir/{version('weir')}", **headers}
    async with (
        asyncio.timeout(_WHOLE_S),  # timeouts of the client are of each read: who sends a byte a second has no end
        # No proxy of the environment: it, and not the receiver, would be what is connected to and checked.
        httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=_tls()) as client,
        client.stream("POST", url, content=body, headers=told) as answer,  # its body may be endless, and is not read
    ):
        words = f"HTTP {answer.status_code} {answer.reason_phrase}".strip()
        return Answer(answer.is_success, words, _wait_s(answer.headers.get("retry-after", ""), time.time()))


def _wait_s(said: str, now: float) -> float:
    """Seconds of a ``Retry-After``, which is a number of them or a date; 0 for what is neither.

    >>> [_wait_s(said, 784111717.0) for said in ("7", "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 04 Nov 1994", "soon", "")]
    [7.0, 60.0, 0.0, 0.0, 0.0]
    """
    if said.isdecimal():
        return float(said)
    try:
        return max(parsedate_to_datetime(said).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return 0.0


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
