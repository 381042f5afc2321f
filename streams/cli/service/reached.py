"""What the commands share that talk to a service: where it is, and what they say when it is not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.streams.cli.processes.process import needed
from weir.streams.errors import UsageError
from weir.streams.whole_files import read_whole

if TYPE_CHECKING:
    from weir.streams.client.client import Client

UrlOption = Annotated[
    str | None, typer.Option("--url", "-u", help="Of the service; else $WEIR_URL, else http://127.0.0.1:8080.")
]
BODY_BYTES: Final = 8 << 20
"""Half of what ``[serve.intake] body_bytes`` takes by default: records may be large."""
KeyOption = Annotated[str | None, typer.Option("--key", "-k", help="API key; better given as $WEIR_KEY.")]


@contextmanager
def service_at(url: str | None, key: str | None) -> Iterator[Client]:
    """A client; a service that is not reached is a ``UsageError`` that names its address."""
    needed(("httpx",), "a command that talks to weir serve", "weir[serve]")
    import httpx

    from weir.streams.client.client import Client

    where = url or "$WEIR_URL"
    try:
        with Client(url, key) as client:
            where = client.url
            # Here, not by httpx: the feed takes its error for a connection that broke, and would try again for ever.
            if not where.startswith(("http://", "https://")):
                raise UsageError(f"{where}: give a URL that begins with http:// or https://")
            yield client
    # Around the making too: that is where httpx looks at the URL first.
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"{where}: {error}; start weir serve there, or give --url") from error


def bodies_of(path: str, most: int) -> Iterator[list[bytes]]:
    """The lines of a file in bodies of ``most`` at most; of the standard input (``-``) what has come, without waiting.

    A body has no more than ``BODY_BYTES``, but for a single line that is longer.
    """
    if path != "-":
        with read_whole(Path(path)) as file:
            yield from _bodies(file, most)
        return
    begun = b""
    while True:
        # What is there, be it a line: to gather `most` of them would keep what `tail -f` gives waiting.
        chunk = os.read(sys.stdin.fileno(), 1 << 20)
        *lines, begun = (begun + chunk).split(b"\n") if chunk else [begun, b""]
        yield from _bodies((line + b"\n" for line in lines), most)
        if not chunk:
            return


def _bodies(lines: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    body: list[bytes] = []
    size = 0
    for line in filter(bytes.strip, lines):
        if body and (len(body) == most or size + len(line) > BODY_BYTES):
            yield body
            body, size = [], 0
        body.append(line)
        size += len(line)
    if body:
        yield body
