"""``weir dlq``: the records that no worker could use - what they are, why, and what to do with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from weir.streams.cli.console import confirmed, output, say, table, to_json, utc
from weir.streams.cli.options import BootstrapOption, ConfigOption, JsonOption, YesOption, settings_of
from weir.streams.errors import UsageError
from weir.streams.kafka.admin import dead_letters
from weir.streams.kafka.admin.clients import consumer, producer
from weir.streams.kafka.admin.dead_letters import Letter, Place, Selection, read_letters
from weir.streams.kafka.admin.printed_records import TEXT_CHARS, parse
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.streams.config.settings import Settings, TopicSettings

_HELP = "Dead letters: list, show, replay, drop.\n\nFor example: weir dlq list"
dlq_app = typer.Typer(name="dlq", help=_HELP, no_args_is_help=True)

_MARKS = 500
TopicOption = Annotated[str | None, typer.Option("--topic", "-t", help="Only records that were read from this topic.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", "-r", help="Only where the reason has this text in it.")]
IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Ids: PARTITION-OFFSET of letters, or TOPIC-PARTITION-OFFSET.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Every open letter.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")]


@dlq_app.command("list")
def list_command(
    topic: TopicOption = None,
    reason: ReasonOption = None,
    each: Annotated[bool, typer.Option("--each", help="One line a letter, with its id, instead of groups.")] = False,
    done: Annotated[bool, typer.Option("--done", help="Also letters that were replayed or dropped.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """List open dead letters by topic and reason, the most frequent first.

    For example:

        weir dlq list

        weir dlq list --each --topic user-events --reason amount
    """
    settings = settings_of(config, bootstrap)
    with consumer(settings.kafka, "dlq") as client:
        selection = Selection(topic=_actual(settings, topic), reason=reason, done=done)
        letters = read_letters(client, selection, settings.topics)
        if each:
            list_each(letters, as_json)
        else:
            list_groups(letters, as_json)


@dlq_app.command("show")
def show_command(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As dlq list says, or of the record.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Show one dead letter: where it came from, why it was refused, and its bytes.

    ID is PARTITION-OFFSET of the letter, or TOPIC-PARTITION-OFFSET of the
    record that was refused; that one may have several letters.

    For example:

        weir dlq show 0-17

        weir dlq show user-events-3-1234
    """  # fmt: skip
    settings, place = settings_of(config, bootstrap), Place.parse(letter_id)
    with consumer(settings.kafka, "dlq") as client:
        found = list(read_letters(client, Selection(places=frozenset({place}), done=True), settings.topics))
    if not found:
        raise UsageError(f"no dead letter {place}; ids are in: weir dlq list --each --done")
    for letter in found:
        print(to_json(document(letter)) if as_json else page(letter))


Work = Callable[[Any, Any, list[Letter], "Settings"], Iterator[int]]
"""Does something with letters, given a consumer and a producer; yields how many are just done."""


def _on_letters(verb: str, past: str) -> Callable[[Work], Callable[..., None]]:
    """Makes a command of ``Work``: options say which letters are meant, and a person agrees."""

    def made(work: Work) -> Callable[..., None]:
        def command(
            ids: IdsArgument = None,
            topic: TopicOption = None,
            reason: ReasonOption = None,
            every: AllOption = False,
            dry_run: DryRunOption = False,
            yes: YesOption = False,
            config: ConfigOption = None,
            bootstrap: BootstrapOption = None,
        ) -> None:
            settings = settings_of(config, bootstrap)
            selection = _selection(ids, _actual(settings, topic), reason, every)
            with consumer(settings.kafka, "dlq") as client:
                letters = _open(client, selection, settings.topics)
                if not _agreed(letters, selection, verb, dry_run, yes):
                    return
                # Only now: a person may take long to agree.
                with producer(settings.kafka, "dlq") as sender, _counting(past) as count:
                    for part in work(client, sender, letters, settings):
                        count(part)

        # Typer reads options from the signature, which both commands share, and help from the docstring, which is each
        # one's own.
        command.__doc__ = work.__doc__
        return command

    return made


@dlq_app.command("replay")
@_on_letters("replay", "replayed")
def replay_command(client: Any, sender: Any, letters: list[Letter], settings: Settings) -> Iterator[int]:
    """Send refused records to their topics again, the same bytes under the same key.

    Do it once the cause is mended; a record that is refused again becomes a
    new letter. Of a very large record a letter holds only the first bytes:
    the rest is read from where it was refused, while it is still there.

    A letter is marked as done (a record in dead-letters-done) after all
    in-sync replicas have its record, so a second replay does not send it
    twice. Should this command die in between, some records go out twice:
    workers drop an event_id that they have seen, so nothing counts double.

    For example:

        weir dlq replay 0-17

        weir dlq replay --topic user-events --reason "unknown field" --dry-run

        weir dlq replay --all --yes
    """
    yield from dead_letters.send_back(
        sender, letters, client.topics(), time.time(), settings.topics, partial(dead_letters.restored, client)
    )


@dlq_app.command("drop")
@_on_letters("drop", "dropped")
def drop_command(_client: Any, sender: Any, letters: list[Letter], settings: Settings) -> Iterator[int]:
    """Mark dead letters as done without sending anything.

    They stay readable (dlq list --done) until the topic's retention ends.

    For example:

        weir dlq drop 0-17 0-18

        weir dlq drop --topic device-events --reason "not JSON" --yes
    """
    for at in range(0, len(letters), _MARKS):
        yield dead_letters.mark(sender, letters[at : at + _MARKS], "dropped", time.time(), settings.topics)


def _selection(ids: list[str] | None, topic: str | None, reason: str | None, every: bool) -> Selection:
    narrowed = bool(ids or topic or reason)
    if every == narrowed:
        raise UsageError("say which letters: give ids, --topic or --reason, or --all alone for every open one")
    return Selection(frozenset(map(Place.parse, ids or [])), topic, reason)


def _actual(settings: Settings, topic: str | None) -> str | None:
    """Letters carry the names that topics have on the cluster."""
    return None if topic is None else settings.topics.resolve(topic)


def _open(client: Any, selection: Selection, names: TopicSettings) -> list[Letter]:
    """The letters meant; raises ``UsageError`` for an id that is no open letter's."""
    letters = list(read_letters(client, selection, names))
    met = {place for letter in letters for place in (letter.place, letter.origin)}
    absent = sorted(map(str, selection.places - met))
    if absent:
        raise UsageError(f"no open dead letter {', '.join(absent)}; see weir dlq list --each --done")
    return letters


def _agreed(letters: list[Letter], selection: Selection, verb: str, dry_run: bool, yes: bool) -> bool:
    """Show what is meant and ask, unless ids were given one by one."""
    list_groups(iter(letters), as_json=False)
    meant = bool(letters) and not dry_run
    if meant and (yes or selection.places or confirmed(f"{verb} {len(letters):,} dead letters?")):
        return True
    say(f"nothing done{' (--dry-run)' if dry_run else ''}")
    return False


@contextmanager
def _counting(word: str) -> Iterator[Callable[[int], None]]:
    """Adds up what was done and prints it in the end, also when something went wrong."""
    done: list[int] = []
    try:
        yield done.append
    finally:
        say(f"{word} {sum(done):,} dead letters")


_ROW_CHARS: Final = 90


def list_groups(letters: Iterator[Letter], as_json: bool) -> None:
    """Print letters by topic and reason, the most frequent first."""
    groups = dead_letters.grouped(letters)
    found = [(g, g.newest) for g in groups if g.newest is not None]
    if as_json:
        told = [
            {"topic": g.topic, "reason": g.kind, "count": g.count, "newest": str(n.place), "at": n.content.failed_at}
            for g, n in found
        ]
        print(to_json(told))
        return
    rows = [
        (f"{g.count:,}", g.topic, printable(g.kind, _ROW_CHARS), utc(newest.content.failed_at), _short(newest.place))
        for g, newest in found
    ]
    if rows:
        output().print(table("count>", "topic", "reason", "newest (UTC)", "newest id", rows=rows))
    say(f"dead letters: {sum(g.count for g in groups):,}, groups: {len(groups)}")


def list_each(letters: Iterator[Letter], as_json: bool) -> None:
    """Print a line a letter."""
    if as_json:
        for letter in letters:
            print(orjson.dumps(document(letter)).decode())
        return
    rows = []
    for letter in letters:
        c = letter.content
        state = (letter.done.action if letter.done is not None else "open") + (", cut" if c.raw_bytes else "")
        rows.append((_short(letter.place), letter.origin, utc(c.failed_at), state, printable(c.reason, _ROW_CHARS)))
    if rows:
        output().print(table("id", "from", "at (UTC)", "", "reason", rows=rows))
    say(f"{len(rows):,} dead letters")


def page(letter: Letter) -> str:
    """One letter for a person, all of it."""
    c = letter.content
    state = f"{letter.done.action} at {utc(letter.done.at)}" if letter.done is not None else "open"
    parsed = parse(c.raw)
    if parsed is not None:
        raw = to_json(parsed)
    else:
        raw = f"not JSON: {printable(c.raw, 4_000)}" if c.raw else "no bytes at all"
    lines = [
        f"letter    {letter.place} ({state})",
        f"from      {letter.origin}",
        f"key       {printable(c.key, TEXT_CHARS) if c.key else 'not known'}",
        f"refused   {utc(c.failed_at)} UTC",
        f"reason    {printable(c.reason, 2_000)}",
        f"record    {_size(letter)}",
        "\n".join(f"  {printable(text, 1_000)}" for text in raw.splitlines()),
    ]
    return "\n".join(lines)


def _size(letter: Letter) -> str:
    """How large the record is, and how much of it the letter holds."""
    c = letter.content
    what = f"offsets {c.offset} to {c.last_offset}, as they are in the log, " if c.last_offset is not None else ""
    cut = f" of {c.raw_bytes:,} (sha256 {c.raw_sha256}); the letter holds the first" if c.raw_bytes is not None else ""
    return f"{what}{len(c.raw):,} bytes{cut}"


def document(letter: Letter) -> dict[str, Any]:
    """One letter for programs."""
    c, done = letter.content, letter.done
    state = "open" if done is None else done.action
    # As it is on the wire: `model_dump` would leave bytes, which JSON does not have.
    held: dict[str, Any] = orjson.loads(c.model_dump_json())
    return {"id": str(letter.place), "origin": str(letter.origin), "state": state, **held}


def _short(place: Place) -> str:
    return f"{place.partition}-{place.offset}"
