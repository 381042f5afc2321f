"""``weir notify``: what a running service told of alerts, and whether targets take a message."""

from __future__ import annotations

import secrets
import time
from typing import Annotated

import typer

from weir.streams.cli.console import output, table, to_json, utc
from weir.streams.cli.options import ConfigOption, JsonOption, settings_of
from weir.streams.cli.processes.process import needed
from weir.streams.cli.service.reached import KeyOption, UrlOption, service_at
from weir.streams.errors import UsageError

_HELP = "Messages about alerts: list, test.\n\nFor example: weir notify test --target desk-slack"
notify_app = typer.Typer(name="notify", help=_HELP, no_args_is_help=True)


@notify_app.command("list")
def list_command(
    status: Annotated[str | None, typer.Option("--status", help="waiting, sent, failed or left_out.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="So many messages.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List the rules of a running service, its targets, and the newest messages with what became of them.

    For example:

        weir notify list --status failed
    """
    with service_at(url, key) as client:
        asked = {"limit": limit} | ({} if status is None else {"status": status})
        found = client.get("/v1/notify/rules") | client.get("/v1/notifications", **asked)
    if as_json:
        print(to_json(found))
        return
    rules = (
        (r["name"], ", ".join(r["targets"]), "paused" if r["paused"] else "", r["made_by"]) for r in found["rules"]
    )
    output().print(table("rule", "targets", "", "made by", rows=rules))
    output().print(table("target", "kind", rows=((t["name"], t["kind"]) for t in found["targets"])))
    told = found["notifications"]
    rows = ((utc(m["at"]), m["alert_id"], m["what"], m["target"], m["status"], m["answer"]) for m in told)
    output().print(table("when (UTC)", "alert", "what", "target", "status", "answer", rows=rows))


@notify_app.command("test")
def try_command(
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="Only this one; repeat for more.")] = None,
    config: ConfigOption = None,
) -> None:
    """Send a message that says it is a test to the targets of the settings, from here, and show what each answered.

    The exit status is 1 where one did not take it.

    For example:

        weir notify test --target desk-slack --config weir.toml
    """
    settings = settings_of(config, None).serve
    needed(("httpx", "apprise", "standardwebhooks"), "weir notify test", "weir[serve]")
    from weir.streams.service.notify.delivery import check_target, deliver
    from weir.streams.service.notify.messages import Delivery, Message

    if unknown := settings.notify.unknown(target or ()):
        there = ", ".join(each.name for each in settings.notify.targets) or "none"
        raise UsageError(f"no target {', '.join(unknown)} in [serve.notify]; there are: {there}")
    now, own, failed = time.time(), f"ntf_test_{secrets.token_hex(8)}", False
    for each in settings.notify.targets:
        if target and each.name not in target:
            continue
        check_target(each)
        message = Message(own, "test", each.name, "test", own, "test", "nobody", "low", 0, 0, 0, now, now, now, own)
        answer = deliver(each, Delivery((message,)), settings.public_url)
        failed |= not answer.ok
        print(f"{each.name}: {'delivered' if answer.ok else 'NOT delivered'}: {answer.words}")
    if failed:
        raise typer.Exit(1)
