"""``weir init``: from a table to a task file that runs, and to its first report."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli.console import notes, say
from weir.streams.cli.offline.backtest import backtest_command, check_target, watched
from weir.streams.cli.options import YesOption
from weir.streams.errors import UsageError
from weir.streams.whole_files import write_whole

if TYPE_CHECKING:
    from weir.streams.workbench.profile.draft import Draft


def init_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, JSONL, Parquet or Arrow; or folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The task file to write; else NAME.toml.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the task; else that of the file.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the events' time, or none.")] = None,
    entity: Annotated[str | None, typer.Option(help="Column of whom events are about, or none.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of what came of an event, or none.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label's value to find, such as fraud.")] = None,
    label_delay: Annotated[str | None, typer.Option(help="How long after an event its label is known: 7d.")] = None,
    yes: YesOption = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Then run the task over the files, and write the page of the run.")
    ] = None,
) -> None:
    """Make a task file of a table: times, entities, labels, features, as they are found.

    A sample of at most 40 MB, or 200,000 rows of Parquet, is looked at. What is not sure is asked, with a guess to take
    by Enter; with --yes every guess is taken, and stands in the file with a comment. What would tell the label in
    advance is left out.

    For example:

        weir init payments.csv

        weir init bookings.parquet --yes --out bookings.toml --html bookings.html

        weir init january.csv.gz february.csv.gz --name fraud

        weir init schaden.csv --yes --label Ergebnis --positive Betrug --label-delay 30d
    """
    from weir.streams.workbench.profile.draft import draft_task

    called = name or _name_of(out or files[0])
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", called):
        raise UsageError(f"{called!r} cannot name a task: give --name in lower-case letters, digits and _, at most 48")
    target = out or Path(f"{called}.toml")
    if target.exists() and (target.is_dir() or not force):
        raise UsageError(f"{target} is there already; give another name by --out, or --force to write over it")
    for each in (target, html):
        if each is not None:
            check_target(each, files)
    if html is not None:
        watched(html)
    console = notes()
    with console.status("") as status:

        def ask(question: str, guess: str, answers: Sequence[str]) -> str:
            # A spinner that turns would write over the question.
            status.stop()
            answer = _asked(question, guess, answers)
            status.start()
            return answer

        parts = {"time": time, "entity": entity, "label": label, "positive": positive, "label_delay": label_delay}
        given = {part: said for part, said in parts.items() if said is not None}
        draft = draft_task(files, called, None if yes else ask, status.update, given)
    write_whole(target, draft.text.encode())
    for line in _told(draft, target):
        say(line)
    if html is not None:
        backtest_command(target, list(draft.plan.sample.paths), html=html)


def _asked(question: str, guess: str, answers: Sequence[str]) -> str:
    """What a person answers; asked again where that is none of the ``answers``."""
    shown = f" ({', '.join(answers[:8])})" if answers else ""
    if not sys.stdin.isatty():
        raise UsageError(f"nobody there to answer: {question}{shown} Give --yes to take the guesses, here {guess!r}")
    while True:
        answer: str = typer.prompt(f"{question}{shown}", default=guess, err=True)
        if not answers or answer in answers:
            return answer
        typer.echo(f"{answer!r} is none of them", err=True)


def _name_of(path: Path) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", path.resolve().name.partition(".")[0].lower()).strip("_")[:40]
    return plain if plain[:1].isalpha() else f"task_{plain}".strip("_")


def _told(draft: Draft, target: Path) -> Iterator[str]:
    """What was found, and the next two commands."""
    plan = draft.plan
    time = plan.time.name if plan.time is not None else "none, rows in file order"
    found = f"{plan.sample.rows:,} rows; time: {time}; entity: {plan.main.name if plan.main is not None else 'none'}"
    if plan.label is not None:
        what = "have a date" if plan.label.any_date else " or ".join(plan.label.positive)
        found += f"; label: {plan.label.column.name}, {plan.rate:.2%} {what}"
    yield f"{target}: {found}{'' if plan.label is not None else f'; {plan.no_label}'}"
    yield from plan.sample.table.decisions
    yield from (f"left out: {each}" for each in draft.left)
    if plan.left:
        names = ", ".join(list(plan.left)[:6]) + (", ..." if len(plan.left) > 6 else "")
        yield f"left out: {len(plan.left)} columns ({names}); the file says why"
    yield from (f"guessed: {part}: {why}" for part, why in plan.guesses.items())
    given = f"{shlex.quote(str(target))} {' '.join(f'--data {shlex.quote(str(path))}' for path in plan.sample.paths)}"
    yield f"next:\n  weir check {given}\n  weir backtest {given} --html report.html"
    rows = " ".join(shlex.quote(str(path)) for path in plan.sample.paths)
    task = shlex.quote(str(target))
    yield f"live:\n  weir serve {task}\n  weir send {rows} --task {task}"
