"""Reads the body of a request: bounded in bytes, before and after decompression, and in time; and splits it.

A body is one JSON object, an array of them, or NDJSON. Records are not parsed: their bytes go into the log as they
came. What a record holds is judged by the decoders; here only the edges of records are found, so that one bad record
does not spoil the others.
"""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request

from weir.online.codec.foreign_formats import recognise_bytes
from weir.online.jit import njit
from weir.streams.config.serve_settings import IntakeSettings
from weir.streams.kafka.consume.codecs import BatchTooLarge, decompress
from weir.streams.service.parts import Problem

CODECS: Final = {"gzip": 1, "x-gzip": 1, "zstd": 4}
"""Kafka's numbers of the codecs, by the names that HTTP has for them."""
LARGE: Final = 256 << 10
"""Bytes of records that are decoded in a thread, if there are more."""
_QUICK: Final = 2 << 10
# The rest of the body would otherwise still have to be read before the connection can serve another request.
_CLOSE: Final = {"Connection": "close"}


async def read_body(request: Request, limits: IntakeSettings) -> bytes:
    """The whole body, decompressed.

    Raises
    ------
    Problem
        It is too large (413), too slow (408), cut off or not what its encoding says (400), or of an encoding that is
        not known (415).
    """
    # What a caller says of the length only refuses sooner: bytes are counted as they come.
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.body_bytes:
        raise _too_large(limits, f"{int(said):,} bytes")
    body, encoding = await _received(request, limits), request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in CODECS:
        fix = "send gzip or zstd, one of them, or no Content-Encoding"
        # RFC 9110, 15.5.16: an answer of 415 names the encodings that would do.
        headers = {"Accept-Encoding": "gzip, zstd"}
        raise Problem(415, "Unknown encoding", f"Content-Encoding: {encoding[:64]!r}; {fix}", headers=headers)
    unpack = partial(decompress, CODECS[encoding], memoryview(body), limits.body_bytes)
    try:
        # In a thread, unless it is quick for sure: a small body may hold a thousand times its size.
        return unpack() if len(body) <= _QUICK else await asyncio.to_thread(unpack)
    except BatchTooLarge:
        raise _too_large(limits, f"more than {limits.body_bytes:,} bytes after decompression") from None
    except ValueError as error:
        raise Problem(400, "Not decompressible", f"the body is {error}; send what Content-Encoding says") from None


async def _received(request: Request, limits: IntakeSettings) -> bytes:
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise _too_large(limits, f"more than {limits.body_bytes:,} bytes")
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not arrive within {limits.body_timeout_s:g} s; {size:,} bytes did"
        raise Problem(408, "Body too slow", detail, limit=limits.body_timeout_s, headers=_CLOSE) from None
    except ClientDisconnect:
        raise Problem(400, "Body cut off", f"the connection ended after {size:,} bytes of the body") from None
    return b"".join(parts)


def _too_large(limits: IntakeSettings, size: str) -> Problem:
    fix = "send smaller bodies, or raise [serve.intake] body_bytes"
    detail = f"the body has {size}, allowed {limits.body_bytes:,}; {fix}"
    return Problem(413, "Body too large", detail, limit=limits.body_bytes, fix=fix, headers=_CLOSE)


LINES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
"""Media types of NDJSON; it is also recognised without them."""
# An object written over several lines never has a line that begins with a brace after its first.
_SEVERAL: Final = re.compile(rb"\s*\{[^\n]*\n\s*\{")
_QUOTE, _BACKSLASH, _COMMA = ord('"'), ord("\\"), ord(",")
_OPEN, _CLOSE_OBJECT, _OPEN_LIST, _CLOSE_LIST = ord("{"), ord("}"), ord("["), ord("]")
_UNCLOSED, _TOO_MANY = -1, -2


def split_body(body: bytes, media_type: str, most: int) -> list[bytes]:
    r"""The records of a body, at least one.

    >>> split_body(b'[{"a": "],"}, {"b":2}]', "", 9)
    [b'{"a": "],"}', b'{"b":2}']
    >>> split_body(b'{"a":1}\r\n\n{"b":2}\n', "", 9)
    [b'{"a":1}', b'{"b":2}']

    Raises
    ------
    Problem
        It holds no records (400), or more than ``most`` (413).
    """
    first = body.lstrip()[:1]
    if media_type in LINES:
        records = split_lines(body, most)
    elif first == b"[":
        records = split_array(body, most)
    elif first == b"{":
        records = split_lines(body, most) if _SEVERAL.match(body) else [body.strip()]
    else:
        raise no_records(body)
    if not records:
        raise no_records(body)
    return records


def no_records(body: bytes) -> Problem:
    """The problem of a body that holds no JSON object."""
    if body.strip() in (b"", b"[]"):
        held = "it is empty"
    elif body.startswith(BOM_UTF8):
        held = "it begins with a byte order mark; leave that out"
    else:
        held = recognise_bytes(body[:65_536]) or f"it begins with {body[:16]!r}"
    fix = "send one JSON object, an array of them, or NDJSON"
    return Problem(400, "No records", f"the body holds no records: {held}; {fix}", fix=fix)


def split_lines(body: bytes, most: int) -> list[bytes]:
    """The lines of NDJSON that are not blank."""
    # Counted first: sixteen million empty lines are a small body, and a list of sixteen million.
    # Twice as many, as a line between two records may be blank.
    if body.count(b"\n") > 2 * most:
        raise _too_many(most)
    lines = [stripped for line in body.split(b"\n") if (stripped := line.strip())]
    if len(lines) > most:
        raise _too_many(most)
    return lines


def split_array(body: bytes, most: int) -> list[bytes]:
    """The items of a JSON array, whatever they are."""
    # Not zeros: of a megabyte for places only the pages that items reach are ever touched.
    places = np.empty((most, 2), np.int64)
    found = _find_items(np.frombuffer(body, np.uint8), places)
    if found == _TOO_MANY:
        raise _too_many(most)
    if found == _UNCLOSED:
        detail = "the body begins as a JSON array, and is not one: it is cut off, or something stands after its end"
        raise Problem(400, "Not an array", detail)
    items = [body[start:end].strip() for start, end in places[:found].tolist()]
    return [] if items == [b""] else items


def _too_many(most: int) -> Problem:
    fix = "send smaller bodies; for events and labels [serve.intake] body_records says how many"
    return Problem(413, "Too many records", f"the body holds more than {most:,}; {fix}", limit=most, fix=fix)


@njit(cache=True, nogil=True)
def _find_items(buf: NDArray[np.uint8], places: NDArray[np.int64]) -> int:
    """Write the places of an array's items ``(n, 2)``; how many, or why there are none.

    It counts brackets of both kinds together: an item that mixes them up is refused by its decoder. No recursion, so
    that no depth is too deep.
    """
    found = depth = start = i = 0
    while i < len(buf):
        c = buf[i]
        if c == _QUOTE:
            i += 1
            while i < len(buf) and buf[i] != _QUOTE:
                i += 2 if buf[i] == _BACKSLASH else 1
        elif c in (_OPEN, _OPEN_LIST):
            depth += 1
            if depth == 1:
                start = i + 1
        elif c in (_CLOSE_OBJECT, _CLOSE_LIST):
            depth -= 1
        if (c == _COMMA and depth == 1) or (c in (_CLOSE_OBJECT, _CLOSE_LIST) and depth == 0):
            if found == len(places):
                return _TOO_MANY
            places[found, 0], places[found, 1] = start, i
            found, start = found + 1, i + 1
            if depth == 0:
                break
        i += 1
    for rest in range(i + 1, len(buf)):
        if buf[rest] > 32:
            return _UNCLOSED
    return found if depth == 0 and i < len(buf) else _UNCLOSED


def warm_up() -> None:
    """Compile, or load what was compiled, before the first caller waits for it."""
    split_array(b"[{}]", 1)
