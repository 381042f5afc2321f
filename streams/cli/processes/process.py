"""What the commands that keep running share: options, the log, the web address, and ``--check``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer

from weir.streams.checks.findings import Check, check_codecs, checks_table
from weir.streams.cli.console import output, say
from weir.streams.errors import UsageError
from weir.streams.ops.stop_request import ending_at_once
from weir.streams.text import printable

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings

TasksArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="TASK", help="Task files or directories; else [worker] tasks.")
]
GroupOption = Annotated[str | None, typer.Option("--group", help="First part of the consumer group's name.")]
InstanceOption = Annotated[
    str | None, typer.Option("--instance-id", help="The same after each restart, unique in the group.")
]
WebOption = Annotated[str | None, typer.Option("--web", metavar="HOST:PORT", help="Web address; :PORT, auto or off.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Look whether it could run here; run nothing.")]
LogLevelOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]

_NEEDS: Final = ("faust-streaming", "aiokafka", "redis", "aiohttp", "prometheus-client")
"""Packages that a worker needs beyond the base install."""
_QUIET: Final = {
    "aiokafka": logging.WARNING, "faust": logging.WARNING, "kafka": logging.WARNING, "mode": logging.WARNING,
    "mode.timers": logging.ERROR,  # say that a busy loop is busy; the metrics say it better
    "kafka.net.selector": logging.ERROR,
}  # fmt: skip
"""Loggers of libraries that tell at level info what only their authors want to know."""
_LEVELS: Final = ("debug", "info", "warning", "error")
_HIGHEST_PORT: Final = 65_535
MISSING: Final = "missing"
P = ParamSpec("P")


def keeps_running(command: Callable[P, None]) -> Callable[P, None]:
    """A command that runs until a signal: one that comes while it starts is heard, too, and ends it at once.

    Not where it only checks: what was stopped has found nothing to be in order.
    """

    @wraps(command)
    def run(*args: P.args, **given: P.kwargs) -> None:
        with nullcontext() if given.get("only_check") else ending_at_once(0):
            command(*args, **given)

    return run


def address(web: str | None, table: str = "worker") -> dict[str, object]:
    """``--web`` as settings of ``table``.

    >>> address("0.0.0.0:8090"), address(":auto", "trainer")
    ({'worker.web_host': '0.0.0.0', 'worker.web_port': 8090}, {'trainer.web_host': None, 'trainer.web_port': 'auto'})
    """
    if web is None:
        return {}
    host, _, port = web.rpartition(":")
    if port in ("off", "0"):
        return {f"{table}.web_port": 0}
    if port != "auto" and not (port.isdecimal() and int(port) <= _HIGHEST_PORT):
        raise UsageError(f"--web {web!r}: give HOST:PORT, :PORT, auto or off; a port is at most {_HIGHEST_PORT}")
    # Without a host (`:8090`) that of the settings stays: None is what was not given.
    return {f"{table}.web_host": host.strip("[]") or None, f"{table}.web_port": port if port == "auto" else int(port)}


def needed(packages: Sequence[str] | None = None, what: str = "a worker", hint: str = "weir[kafka]") -> None:
    """Those packages of the extra are there, or all; raises ``UsageError`` naming what is not."""
    absent = [package for package in (_NEEDS if packages is None else packages) if version_of(package) == MISSING]
    if absent:
        raise UsageError(f"{what} needs {', '.join(absent)}, not installed here; run: pip install '{hint}'")


def version_of(package: str) -> str:
    """The version that is installed, or ``missing``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def check(
    settings: Settings, tasks: Sequence[TaskSpec], first: Check, own: Sequence[Check] = (), *, remote: bool = False
) -> None:
    """Print ``first``, what a worker of these settings would find, and ``own``, as `report` does."""
    from weir.streams.checks.kafka_checks import check_kafka
    from weir.streams.checks.late_events import late_events
    from weir.streams.checks.link_checks import kafka_warnings
    from weir.streams.checks.redis_checks import check_redis

    links = [*check_kafka(settings, tasks), *check_redis(settings.redis)]
    checks = [first, check_codecs(), *late_events(settings, tasks), *links, *kafka_warnings(settings.kafka)]
    if links[0].status != "FAIL":  # which version serves is told by Kafka
        from weir.streams.checks.state_checks import check_full, check_state  # these bring aiokafka
        from weir.streams.worker.identity.identity_checks import check_identity

        checks += check_identity(settings)
        checks += check_state(settings, tasks)
        checks += check_full(settings, tasks, remote=remote)
    report([*checks, *own])


def report(checks: Sequence[Check]) -> None:
    """Print what was found; raises ``Exit(2)`` when something is missing."""
    output().print(checks_table(checks))
    failed = sum(each.status == "FAIL" for each in checks)
    warned = sum(each.status == "WARN" for each in checks)
    if failed:
        say(f"not ready: {failed} of {len(checks)} checks failed")
        raise typer.Exit(2)
    some = "a warning" if warned == 1 else f"{warned} warnings"
    say(f"ready{f', with {some}' if warned else ''}")


def log_to_stderr(level: str, child: int = 0) -> None:
    """Log from ``level`` on, without what libraries tell of themselves; raises ``UsageError`` for no level.

    Lines of process ``child`` of several, from 1, say so.
    """
    if level not in _LEVELS:
        raise UsageError(f"--log-level {level!r}: give one of {', '.join(_LEVELS)}")
    which = f"[{child}] " if child else ""
    logging.basicConfig(level=level.upper())
    lines = _SafeLines(f"%(asctime)s %(levelname)-7s {which}%(name)s: %(message)s")
    logging.getLogger().handlers[0].setFormatter(lines)
    if level != "debug":
        logging.getLogger().handlers[0].addFilter(_worth_reading)
        for name, least in _QUIET.items():
            # With --log-level error they are no louder than the rest.
            logging.getLogger(name).setLevel(max(least, logging.getLogger().level))


class _SafeLines(logging.Formatter):
    """Writes what records of others brought into a message as text: no line of a log is theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of the library
        """The line of a record; further lines of its message are indented."""
        return "\n    ".join(printable(line) for line in super().formatMessage(record).split("\n"))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        """The traceback, where there is one: Faust logs a crash from where no error is being handled."""
        return "" if ei[0] is None else super().formatException(ei)


def _worth_reading(record: logging.LogRecord) -> bool:
    """Whether a record is not Faust's book-keeping: its services coming and going, its agents cancelled by design."""
    if record.exc_info and record.exc_info[0] is asyncio.CancelledError:
        return False
    return record.levelno > logging.INFO or not str(record.msg).startswith("[^")
