"""``weir decide``: what a running service decides of some events."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from weir.streams.cli.console import to_json
from weir.streams.cli.service.reached import KeyOption, UrlOption, bodies_of, service_at

_MOST: Final = 1_000


def decide_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Events as JSON lines; - is the standard input.")] = "-",
    deadline: Annotated[
        int | None, typer.Option("--deadline", min=1, max=60_000, help="Milliseconds to wait at most.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Send events and print what each task decides of them: score, threshold, alert or not, and why.

    The events count as any others. At most 1,000 are asked at once; a longer
    file is asked in parts, one document each.

    For example:

        weir decide events.jsonl

        echo '{"v":1,"event_id":"e1","type":"purchase","user_id":"u7","ts":1764331200,"amount":42}' | weir decide
    """
    with service_at(url, key) as client:
        for body in bodies_of(file, _MOST):
            print(to_json(client.decide(b"".join(body), deadline)), flush=True)
