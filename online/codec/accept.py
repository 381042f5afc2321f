"""The verdict on each record of a batch: a decoded struct, or a reason.

A batch is decoded by one msgspec call. That call sees a JSON array joined from the records, so
``weir.online.codec.scan`` first sets aside the records that could reach over their own edges; those, and all records
when the call fails, are judged one by one, and ``weir.online.codec.why_invalid`` says what is wrong. The verdict on a
record never depends on its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.codec.hot_structs import decoders, ids_of, list_of, struct_of, times_of
from weir.online.codec.judge import within
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.scan import find_suspects
from weir.online.codec.why_invalid import explain, explain_row, finite
from weir.online.codec.wire import FINITE_MAX, INVISIBLE, MISSING_IDS, TS_MAX, TS_MIN, WireModel
from weir.online.errors import UNREADABLE
from weir.online.frozen import dataclass

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_ID = re.compile(f"{_UNPRINTABLE.pattern}|[{INVISIBLE}]")
_FLOAT = frozenset({float})


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is not valid: where it was in the input, its bytes and why."""

    index: int
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class AcceptedRecords:
    """The valid records of an input as structs, with their ``ts`` in epoch seconds and their places in the input."""

    structs: list[Any]
    ts: FloatVector
    index: IntVector
    rejects: list[Reject]


def accept_records(
    model: type[WireModel], raw: Sequence[bytes | None], limits: InputLimits = DEFAULT_LIMITS
) -> AcceptedRecords:
    """Judge JSON records; ``None`` (a tombstone) counts as an empty record."""
    records = [record or b"" for record in raw]
    one, many = decoders(model, limits)
    # One parse of all is several times faster than one each, but does not say which record it failed at.
    joined = b",".join(records)
    suspects = find_odd(records, joined)
    odd = suspects.nonzero()[0].tolist()
    why = _Why(records, lambda record: explain(model, record, limits))
    structs: list[Any]

    def alone(i: int) -> Any:
        return _judge(
            partial(one.decode, records[i]), lambda: decoders(model, _unlimited(limits))[0].decode(records[i]), why, i
        )

    if not odd:
        structs = decode_together(many, joined, len(records)) or list(map(alone, range(len(records))))
    else:
        structs = [None] * len(records)
        clean = np.flatnonzero(~suspects).tolist()
        # Without the suspects, which could swallow or shift their neighbours in one parse.
        together = decode_together(many, b",".join([records[i] for i in clean]), len(clean))
        for i, struct in zip(clean, together or map(alone, clean), strict=True):
            structs[i] = struct
        for i in odd:
            if why.valid(i):  # the contract decides about a suspect, not the parser that it may have fooled
                structs[i] = alone(i)
    return _split(model, structs, why, ids_of(model))


def accept_rows(model: type[WireModel], rows: Sequence[dict[str, Any]]) -> AcceptedRecords:
    """Judge rows of Python values as if they had come as JSON; ``v`` may be absent."""
    struct = struct_of(model, row=True)
    why = _Why(rows, lambda row: explain_row(model, row))
    structs: list[Any]
    try:
        structs = msgspec.convert(rows, list_of(struct))
    except UNREADABLE:
        wide = struct_of(model, _unlimited(DEFAULT_LIMITS), row=True)

        def one(i: int) -> Any:
            return _judge(
                lambda: msgspec.convert(rows[i], struct), lambda: msgspec.convert(finite(rows[i]), wide), why, i
            )

        structs = list(map(one, range(len(rows))))
    # Of bytes the scan would have found it; rows of a table never were bytes.
    for i in _unprintable(structs, ids_of(model)):
        structs[i] = None
        why.reject(i, "a text holds a control character or half a surrogate pair")
    return _split(model, structs, why)


class _Why:
    """Collects the reasons of the records that are rejected, asking the contract for its words."""

    def __init__(self, records: Sequence[Any], explain: Callable[[Any], str | None]) -> None:
        self._records, self._explain = records, explain
        self.reasons: dict[int, str] = {}

    def valid(self, i: int) -> bool:
        """Whether the contract accepts record ``i``; remembers why not."""
        reason = self._explain(self._records[i])
        if reason is not None:
            self.reasons[i] = reason
        return reason is None

    def reject(self, i: int, otherwise: str) -> None:
        """Record ``i`` is rejected; ``otherwise`` is the reason where the contract's models have no words for it."""
        if self.valid(i):
            self.reasons[i] = otherwise

    def rejects(self) -> list[Reject]:
        """Every rejected record, in input order."""
        return [Reject(i, _as_bytes(self._records[i]), self.reasons[i]) for i in sorted(self.reasons)]


def find_odd(records: list[bytes], joined: bytes) -> BoolVector:
    """Mark the records, ``joined`` by commas, that have to be judged one by one."""
    suspects = find_suspects(joined, np.fromiter(map(len, records), np.int64, len(records)))
    if not joined.isascii():
        try:
            joined.decode()  # the parser does not look inside the fields that it ignores
        except UnicodeDecodeError:
            suspects |= np.array([record.decode(errors="ignore").encode() != record for record in records], np.bool_)
    return suspects


def decode_together(many: msgspec.json.Decoder[Any], joined: bytes, count: int) -> list[Any] | None:
    """Decode records joined by commas, or None where one of them fails."""
    try:
        structs: list[Any] = many.decode(b"[" + joined + b"]")
    except UNREADABLE:
        return None
    return structs if len(structs) == count else None


def _unlimited(limits: InputLimits) -> InputLimits:
    """Limits that let pass what stands for "no data"; for records that the contract has accepted."""
    return limits.model_copy(update={"number": FINITE_MAX, "amount": FINITE_MAX})


def _judge(decode: Callable[[], Any], again: Callable[[], Any], why: _Why, i: int) -> Any:
    """Record ``i`` by ``decode``; by ``again`` where the contract accepts what that refuses: numbers for "no data"."""
    try:
        return decode()
    except UNREADABLE:
        if not why.valid(i):
            return None
    try:
        return again()
    except UNREADABLE as error:
        why.reasons[i] = str(error)
        return None


def _split(model: type[WireModel], structs: list[Any], why: _Why, known: Sequence[str] = ()) -> AcceptedRecords:
    """Leave out what is rejected, and what msgspec could not check: times given as text, ids that must be known."""
    kept = [i for i, struct in enumerate(structs) if struct is not None] if why.reasons else None
    if kept is not None:
        structs = [structs[i] for i in kept]
    index = np.arange(len(structs)) if kept is None else np.array(kept, np.int64)
    ts, *others = [seconds(list(map(attrgetter(name), structs))) for name in times_of(model)]
    verdicts = [in_range(each) for each in (ts, *others) if not within(each, TS_MIN, TS_MAX)]
    for name in known:
        ids = list(map(attrgetter(name), structs))
        # One look at all; each is looked at only where one may be odd. Ids in ASCII without a control character, which
        # `scan` has found, hold nothing invisible.
        if not MISSING_IDS.isdisjoint(ids) or not "".join(ids).isascii():
            good = [each not in MISSING_IDS and each.strip() != "" and not _NO_ID.search(each) for each in ids]
            verdicts.append(np.array(good, np.bool_))
    if verdicts:
        fits = np.logical_and.reduce(verdicts)
        for i in index[~fits].tolist():
            why.reject(i, f"ts: outside {TS_MIN:.0f} to {TS_MAX:.0f}")
        structs = [struct for struct, fit in zip(structs, fits.tolist(), strict=True) if fit]
        index, ts = index[fits], ts[fits]
    return AcceptedRecords(structs, ts, index, why.rejects())


def seconds(times: list[Any]) -> FloatVector:
    """Epoch seconds of times that are floats or ``datetime``."""
    if not _FLOAT.issuperset(map(type, times)):
        times = [time.timestamp() if isinstance(time, datetime) else time for time in times]
    return np.array(times, np.float64)


def in_range(ts: FloatVector) -> BoolVector:
    """Which times a record may carry."""
    return (ts >= TS_MIN) & (ts <= TS_MAX)


def _unprintable(structs: list[Any], ids: Sequence[str]) -> list[int]:
    """Positions of converted rows with a text that JSON cannot carry or the contract does not allow."""
    found: set[int] = set()
    kept = [i for i, struct in enumerate(structs) if struct is not None]
    present = [structs[i] for i in kept]
    for name in present[0].__struct_fields__ if present else ():
        values = list(map(attrgetter(name), present))
        kinds = set(map(type, values))
        if dict in kinds:
            values = [
                "".join([*v, *(each for each in v.values() if each.__class__ is str)]) if v else "" for v in values
            ]
        elif str not in kinds:
            continue
        if not "".join(filter(None, values)).isprintable():  # quick, and stricter than the contract
            odd = _NO_ID if name in ids else _UNPRINTABLE
            found.update(i for i, value in zip(kept, values, strict=True) if value and odd.search(value))
    return sorted(found)


def _as_bytes(record: Any) -> bytes:
    if isinstance(record, bytes):
        return record
    try:
        return msgspec.json.encode(record)
    except (TypeError, ValueError, RecursionError):
        # A dead letter has bytes whatever the row held, also what JSON has no form for.
        return repr(record).encode("utf-8", "backslashreplace")
