"""``weir audit``: who did what in the HTTP service, and whether somebody changed that since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from weir.online.errors import UNREADABLE
from weir.streams.cli import options
from weir.streams.cli.console import output, say, table, to_json, utc
from weir.streams.cli.operate.keys import DirectoryOption, database_of
from weir.streams.config import topics
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings

_HELP = "Who did what in `weir serve`: show, verify.\n\nFor example: weir audit show --since 1d"
audit_app = typer.Typer(name="audit", no_args_is_help=True, help=_HELP)
KafkaOption = Annotated[bool, typer.Option("--kafka", help="Of a service beside Kafka; else of the directory.")]


@audit_app.command("verify")
def verify_command(
    kafka: KafkaOption = False,
    directory: DirectoryOption = None,
    as_json: options.JsonOption = False,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Check that no record was changed, added or removed; the exit status is 1 where one was.

    Each record holds the digest of the one before, and the database of the
    service where each chain has come to. What retention removed from the
    beginning is told, and is no fault.

    For example:

        weir audit verify --dir /var/lib/weir
    """
    settings = options.settings_of(config, bootstrap, {"serve.directory": directory})
    engine = database_of(settings.serve)
    from weir.streams.service.access.audit.audit_chain import verify
    from weir.streams.service.access.audit.audit_trail import anchors_in

    anchors = anchors_in(engine)
    found = verify(_records(settings, kafka), anchors)
    if as_json:
        told = [msgspec.to_builtins(report) for report in found]
        print(to_json([{name: report[name] for name in report if name != "recent"} for report in told]))
    else:
        rows = [
            (r.writer, r.records, "-" if r.first is None else r.first.seq, "-" if r.last is None else r.last.seq,
             "-" if r.last is None else r.last.hash, r.fault or "whole")
            for r in found
        ]  # fmt: skip
        output().print(table("writer", "records>", "first>", "last>", "hash of the last", "chain", rows=rows))
    if any(report.fault for report in found):
        raise typer.Exit(1)


@audit_app.command("show")
def show_command(
    who: Annotated[str | None, typer.Option("--who", help="Of a caller whose id or name has this in it.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Whose action has this in it: verdict.")] = None,
    entity: options.EntityOption = None,
    since: options.SinceOption = None,
    kafka: KafkaOption = False,
    directory: DirectoryOption = None,
    as_json: options.JsonOption = False,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Show who did what, oldest first.

    For example:

        weir audit show --since 2h --who ana

        weir audit show --entity user-7 --json
    """
    settings = options.settings_of(config, bootstrap, {"serve.directory": directory})
    from weir.streams.service.access.audit.audit_chain import AuditFilter

    wanted = AuditFilter(who, action, entity, since=0.0 if since is None else options.moment("--since", since))
    records = [_document(value) for _, value in _records(settings, kafka)]
    found = [record for record in records if record is not None and wanted.accepts(record)]
    if odd := records.count(None):
        say(f"{odd:,} records are none of weir serve's and not shown; see weir audit verify")
    if as_json:
        for record in found:
            print(msgspec.json.encode(record).decode())
        return
    columns = ("time", "who", "via", "action", "object", "outcome", "address")
    output().print(table(*columns, rows=[_row(record) for record in found]))
    if not found:
        say("no record is like that")


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    who = record.get("who") or {}
    count = f"{record['records']} records" if "records" in record else ""
    told = (who.get("name"), who.get("via"), record.get("action"), record.get("object", count), record.get("outcome"))
    words = [printable("-" if word is None else str(word), 100) for word in (*told, record.get("address"))]
    return utc(record.get("at", 0.0)), *words


def _document(value: bytes) -> dict[str, Any] | None:
    """What a record says; ``None`` where it is none of ours, which whoever may write the topic can make."""
    try:
        told = msgspec.json.decode(value, type=dict[str, Any])
    except UNREADABLE:
        return None
    at, who = told.get("at", 0.0), told.get("who") or {}
    return told if isinstance(at, int | float) and isinstance(who, dict) else None


def _records(settings: Settings, kafka: bool) -> Iterator[tuple[str, bytes]]:
    """Where each record of the audit is, and its value."""
    if kafka:
        from weir.streams.kafka.admin.clients import consumer
        from weir.streams.kafka.admin.reader import Start, read_present

        with consumer(settings.kafka, "audit") as client:
            for record in read_present(client, settings.topics.name(topics.AUDIT), Start(None)):
                yield f"{record.topic}-{record.partition} at {record.offset}", record.value or b""
        return
    from weir.streams.embedded.embedded_log import read_directory

    for batch in read_directory(settings.serve.directory / "kept"):
        if batch.topic == topics.AUDIT:
            for index, logged in enumerate(batch.records):
                yield f"{batch.topic}-{batch.partition} at {batch.offset_of(index)}", logged.value
