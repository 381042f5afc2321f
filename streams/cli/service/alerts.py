"""``weir alerts``: the alerts of a running service, and verdicts on them."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer

from weir.streams.cli.console import output, say, table, to_json, utc
from weir.streams.cli.options import JsonOption
from weir.streams.cli.service.reached import KeyOption, UrlOption, service_at
from weir.streams.errors import UsageError

_HELP = "Alerts of a running service: list, show, verdict, undo.\n\nFor example: weir alerts list --severity high"
alerts_app = typer.Typer(name="alerts", help=_HELP, no_args_is_help=True)
_VERDICTS = ("confirmed", "false_alarm", "unsure")
AlertArgument = Annotated[str, typer.Argument(metavar="ALERT", help="Its id, as weir alerts list says.")]


@alerts_app.command("list")
def list_command(
    task: Annotated[str | None, typer.Option("--task", help="Of this task.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="open, escalated, resolved, ...")] = None,
    severity: Annotated[str | None, typer.Option("--severity", help="At least this.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", "-e", help="Of this user or device.")] = None,
    search: Annotated[str | None, typer.Option("--search", "-q", help="In ids, entities and reasons.")] = None,
    sort: Annotated[str | None, typer.Option("--sort", help="newest, score, severity or expected_loss.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="What waits for you, the largest loss first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="So many at most.")] = 50,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List alerts.

    For example:

        weir alerts list --queue

        weir alerts list --entity u7 --json | jq '.[].alert_id'
    """
    filters = {"task": task, "state": state, "severity": severity, "entity": entity, "q": search, "sort": sort}
    filters["queue"] = "true" if queue else None
    with service_at(url, key) as client:
        # 500 is the most that the service answers in one page; the client asks for further ones.
        found = list(islice(client.alerts(**filters, limit=min(limit, 500)), limit))
    if as_json:
        print(to_json(found))
        return
    output().print(
        table("alert", "task", "severity", "score>", "state", "opened (UTC)", "because", rows=map(_row, found))
    )
    say(f"{len(found)} alerts")


def _row(alert: dict[str, Any]) -> tuple[object, ...]:
    reasons = alert.get("reasons") or [{}]
    return (
        alert["alert_id"], alert["task"], alert["severity"], f"{alert['score']:.3f}", alert["state"],
        utc(alert["opened_at"]), reasons[0].get("text", ""),
    )  # fmt: skip


@alerts_app.command("show")
def show_command(alert_id: AlertArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Show one alert as JSON: its reasons, its history, and what was learned from it.

    For example:

        weir alerts show fraud:u7:e1 | jq .history
    """
    with service_at(url, key) as client:
        print(to_json(client.alert(alert_id)))


@alerts_app.command("verdict")
def verdict_command(
    alert_id: AlertArgument,
    verdict: Annotated[str, typer.Argument(metavar="VERDICT", help="confirmed, false_alarm or unsure.")],
    reason: Annotated[str, typer.Option("--reason", help="Such as stolen-card.")] = "",
    note: Annotated[str, typer.Option("--note", help="For whoever reads it later.")] = "",
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Say whether an alert was right; it resolves, and the model learns.

    For example:

        weir alerts verdict fraud:u7:e1 confirmed --reason stolen-card
    """
    with service_at(url, key) as client:
        if verdict not in _VERDICTS:
            raise UsageError(f"verdict {verdict!r}: give one of {', '.join(_VERDICTS)}")
        print(to_json(client.verdict(alert_id, verdict, reason=reason, note=note)))  # type: ignore[arg-type]


@alerts_app.command("undo")
def undo_command(alert_id: AlertArgument, url: UrlOption = None, key: KeyOption = None) -> None:
    """Take the newest verdict on an alert back; the model learns the opposite.

    For example:

        weir alerts undo fraud:u7:e1
    """
    with service_at(url, key) as client:
        print(to_json(client.undo(alert_id)))
