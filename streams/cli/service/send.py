"""``weir send``: events or labels from files to a running service."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from weir.streams.cli.console import notes
from weir.streams.cli.service.reached import KeyOption, UrlOption, bodies_of, service_at

_BODY: Final = 500
"""Records of one body: of larger ones the rate is the same, and what is refused is told later."""
_SHOWN: Final = 10


def send_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JSON lines; - is the standard input.")],
    labels: Annotated[bool, typer.Option("--labels", help="They hold labels, not events.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send events (or labels) to a running weir serve, from files of JSON lines.

    A record that was sent before is a repeat and counts once, so what broke
    off is sent again from its beginning. Refused records are named with their
    reason, and the exit status is 1.

    For example:

        weir send events.jsonl

        weir send --labels labels.jsonl --url https://weir.example

        tail -f events.jsonl | weir send -
    """
    accepted = repeats = refused = 0
    where = ""
    try:
        with service_at(url, key) as client:
            send = client.send_labels if labels else client.send_events
            for path in files:
                at = 1
                for body in bodies_of(path, _BODY):
                    # Said if the request fails: the service may have taken the body or not.
                    where = f"; not acknowledged: {path} from record {at:,}"
                    told = send(b"".join(body))
                    accepted, repeats = accepted + told.accepted, repeats + told.repeats
                    for one in (one for one in told.results if one.status == "refused"):
                        refused += 1
                        if refused <= _SHOWN:
                            words = f"{path}, record {at + one.index}: {one.reason}"
                            notes().print(words, markup=False, soft_wrap=True)
                    at += len(body)
                    where = ""
    finally:  # also of what broke off: what is sent again need not be all of it
        more = f" ({refused - _SHOWN:,} more are not shown)" if refused > _SHOWN else ""
        counts = f"{accepted:,} accepted, {repeats:,} repeats, {refused:,} refused{more}{where}"
        notes().print(counts, markup=False, soft_wrap=True)
    if refused:
        raise typer.Exit(1)
