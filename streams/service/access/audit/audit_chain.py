"""The chain of the audit: each record holds the digest of the one before it. Pure: it knows no log.

A record is JSON with its keys in order. Who changes, adds or removes one has to make every later one of its writer
anew, and then they do not end as the anchor says, which is kept in the database and written to the service's log.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from weir.online.errors import UNREADABLE

AT_ONCE: Final = 500
"""Records that are sent together at most, and so are there twice where the sender did not hear that they were taken."""
GENESIS: Final = "0" * 64
"""What a writer's first record has instead of the digest of one before it."""


class Link(msgspec.Struct, frozen=True):
    """A place in a writer's chain."""

    seq: int
    hash: str


def chained(body: Mapping[str, Any], writer: str, last: Link | None) -> tuple[bytes, Link]:
    """A record that follows ``last``, as it is in the topic, and its own place.

    >>> value, link = chained({"action": "login"}, "a:80", None)
    >>> msgspec.json.decode(value)["prev"] == GENESIS, link.seq
    (True, 0)
    """
    seq, prev = (0, GENESIS) if last is None else (last.seq + 1, last.hash)
    whole = {**body, "v": 1, "writer": writer, "seq": seq, "prev": prev}
    own = _digest(whole)
    return _canonical({**whole, "hash": own}), Link(seq, own)


def _canonical(document: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(document, order="sorted")


def _digest(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(whole)).hexdigest()


@dataclass(slots=True)
class ChainReport:
    """What was found of one writer's chain.

    Parameters
    ----------
    writer : whose it is; ``"?"`` where a record does not say.
    first, last : its ends among what is kept; retention may have removed what came before.
    records : how many there are, without repeats.
    fault : what is wrong, where something is; nothing after it was looked at.
    """

    writer: str
    first: Link | None = None
    last: Link | None = None
    records: int = 0
    fault: str = ""
    recent: dict[int, str] = field(default_factory=dict, repr=False)
    """Digests of the last ones."""


class ChainCheck:
    """Follows every writer's chain record by record, so that a long one is never in memory whole.

    Parameters
    ----------
    anchors : where each writer's chain has at least come, as the database says.
    """

    def __init__(self, anchors: Mapping[str, Link]) -> None:
        self._anchors = dict(anchors)
        self._found: dict[str, ChainReport] = {}
        self._met: set[str] = set()

    def add(self, place: str, value: bytes) -> None:
        """Take the next record: where it is, in words, and its value; each writer's in the order of their offsets."""
        try:
            document = msgspec.json.decode(value, type=dict[str, Any])
            writer, link = str(document["writer"]), Link(int(document["seq"]), str(document.pop("hash")))
            prev = str(document["prev"])
        except (*UNREADABLE, KeyError, TypeError, ValueError) as exc:
            unread = self._found.setdefault("?", ChainReport("?"))
            unread.fault = unread.fault or f"{place}: no record of the audit ({type(exc).__name__})"
            return
        report = self._found.setdefault(writer, ChainReport(writer))
        if report.fault or report.recent.get(link.seq) == link.hash:  # a sender that heard no answer sent it twice
            return
        report.fault = _fault(place, report.last, link, prev, _digest(document))
        if report.fault:
            return
        report.first, report.last, report.records = report.first or link, link, report.records + 1
        report.recent[link.seq] = link.hash
        report.recent.pop(link.seq - AT_ONCE, None)
        if (anchor := self._anchors.get(writer)) is not None and link.seq == anchor.seq:
            self._met.add(writer)
            if link != anchor:
                report.fault = f"{place}: record {link.seq} is another one than the database's anchor says"

    def reports(self) -> list[ChainReport]:
        """What was found, by writer; call it once, after the last record."""
        for writer in sorted(set(self._anchors) - self._met):
            _not_met(self._found.setdefault(writer, ChainReport(writer)), self._anchors[writer])
        return [self._found[writer] for writer in sorted(self._found)]


def verify(records: Iterable[tuple[str, bytes]], anchors: Mapping[str, Link] | None = None) -> list[ChainReport]:
    """Every writer's chain, by name; see ``ChainCheck`` for what a record is."""
    check = ChainCheck(anchors or {})
    for place, value in records:
        check.add(place, value)
    return check.reports()


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records are shown: each condition that is given has to hold.

    Parameters
    ----------
    who, action : a part of the caller's id or name, and of the action.
    entity : whole, as the record's subject or in its address.
    since, until : epoch seconds, the latter excluded.
    """

    who: str | None = None
    action: str | None = None
    entity: str | None = None
    since: float = 0.0
    until: float = math.inf

    def accepts(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of them."""
        who = record.get("who") or {}
        return (
            self.since <= record.get("at", 0.0) < self.until
            and (self.who is None or self.who in f"{who.get('id')} {who.get('name')}")
            and (self.action is None or self.action in str(record.get("action")))
            and (self.entity is None or self.entity in (record.get("subject"), *str(record.get("object")).split("/")))
        )


def _fault(place: str, last: Link | None, link: Link, prev: str, digest: str) -> str:
    """What is wrong with a record after ``last``; empty where nothing is."""
    if digest != link.hash:
        return f"{place}: record {link.seq} was changed: its digest is {digest[:12]}…, and it says {link.hash[:12]}…"
    if last is None:
        return f"{place}: record 0 follows another one" if link.seq == 0 and prev != GENESIS else ""
    if link.seq != last.seq + 1:
        missing = f"record {link.seq} comes after {last.seq}"
        return f"{place}: {missing}: records between them were removed, or two services wrote as one"
    return (
        "" if prev == last.hash else f"{place}: record {link.seq} follows another record {last.seq} than the one here"
    )


def _not_met(report: ChainReport, anchor: Link) -> None:
    if report.fault:
        return
    if report.last is None:
        report.fault = f"no record is left, and the database knows of record {anchor.seq}"
    elif report.last.seq < anchor.seq:
        report.fault = (
            f"it ends at record {report.last.seq}, and the database knows of {anchor.seq}: the end was removed"
        )
