"""What the commands share that talk to a service: where it is, and what they say when it is not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli.processes.process import needed
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.streams.client.client import Client

UrlOption = Annotated[
    str | None, typer.Option("--url", "-u", help="Of the service; else $WEIR_URL, else http://127.0.0.1:8080.")
]
KeyOption = Annotated[str | None, typer.Option("--key", "-k", help="API key; better given as $WEIR_KEY.")]


@contextmanager
def service_at(url: str | None, key: str | None) -> Iterator[Client]:
    """A client; a service that is not reached is a ``UsageError`` that names its address."""
    needed(("httpx",), "a command that talks to weir serve", "weir[serve]")
    import httpx

    from weir.streams.client.client import Client

    with Client(url, key) as client:
        try:
            yield client
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            where = client.url
            raise UsageError(f"{where}: {error}; start weir serve there, or give --url") from error


def bodies_of(path: str, most: int) -> Iterator[list[bytes]]:
    """The lines of a file, ``most`` at a time; of the standard input (``-``) what has come so far, without waiting."""
    if path != "-":
        with Path(path).open("rb") as file:
            while lines := list(islice(file, most)):
                yield [line for line in lines if line.strip()]
        return
    begun = b""
    while True:
        # What is there, be it a line: to gather `most` of them would keep what `tail -f` gives waiting.
        chunk = os.read(sys.stdin.fileno(), 1 << 20)
        *lines, begun = (begun + chunk).split(b"\n") if chunk else [begun, b""]
        whole = [line + b"\n" for line in lines if line.strip()]
        for start in range(0, len(whole), most):
            yield whole[start : start + most]
        if not chunk:
            return
