"""Reads the body of a request: bounded in bytes, before and after decompression, and in time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request

from weir.streams.config.serve_settings import IntakeSettings
from weir.streams.kafka.consume.codecs import BatchTooLarge, decompress
from weir.streams.service.problems import Problem

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
