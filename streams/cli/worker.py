"""``weir worker``: one process that scores, labels, or both.

It knows arguments, the banner and the checks; what runs is ``streams.worker``.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from online.task import TaskSpec
from streams.cli.options import BootstrapOption, ConfigOption, notes, output, settings_of, tasks_of
from streams.errors import UsageError
from streams.ops.checks import Check, checks_table
from streams.ops.kafka_checks import check_kafka
from streams.ops.redis_checks import check_redis
from streams.settings import Role, Settings

_NEEDS: Final = ("faust-streaming", "aiokafka", "redis", "aiohttp", "prometheus-client")
"""Packages that a worker needs beyond the base install."""
_QUIET: Final = {
    "aiokafka": logging.WARNING, "faust": logging.WARNING, "kafka": logging.WARNING, "mode": logging.WARNING,
    "mode.timers": logging.ERROR,  # says that a busy loop is busy; the metrics say it better
}  # fmt: skip
"""Loggers of libraries that tell at level info what only their authors want to know."""
_MISSING: Final = "missing"
_LEVELS: Final = ("debug", "info", "warning", "error")


def worker_command(
    tasks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TASK]...", help="Task files or directories; else [worker] tasks.", show_default=False),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--role", "-r", metavar="score|label|all", show_default=False),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", help="First part of the consumer group's name.", show_default=False),
    ] = None,
    instance_id: Annotated[
        str | None,
        typer.Option("--instance-id", help="The same after each restart, unique in the group.", show_default=False),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option("--web", metavar="HOST:PORT", help="Web address; :PORT, auto or off.", show_default=False),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Look whether it could run here; run nothing.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Run a worker: events in, predictions, alerts and learning out.

    Start as many as you like, on as many machines: they share the partitions
    of the topics. A worker that dies loses nothing; another takes its
    partitions over and goes on where its state in Redis ends.

    Role score reads events and writes predictions, label joins them with
    labels, learns and alerts, all does both in one process.

    Ctrl-C or SIGTERM finishes the batches in work, a second Ctrl-C does not
    wait. With --check the exit status is 2 when something is missing.

    For example:

        weir worker fraud.toml

        weir worker /etc/weir/tasks --config /etc/weir/weir.toml --check

        weir worker tasks/ --role score --instance-id score-1 --web 0.0.0.0:8090

        WEIR_KAFKA__BOOTSTRAP=kafka-1:9092 weir worker fraud.toml --web off
    """  # fmt: skip
    given = {"worker.role": role, "worker.group": group, "worker.instance_id": instance_id, **address(web)}
    settings = settings_of(config, bootstrap, given)
    found = tasks_of(tasks or [], settings)
    needed()
    if check:
        _check(settings, found)
        return
    log_to_stderr(log_level)
    for line in banner(settings, found):
        notes().print(escape(line), soft_wrap=True)
    status = _runner()(settings, found, settings.worker.role)
    if status:
        raise typer.Exit(status)


def banner(settings: Settings, tasks: Sequence[TaskSpec]) -> list[str]:
    """What starts here, in a few lines without a secret."""
    w, k, r = settings.worker, settings.kafka, settings.redis
    member = f", instance {w.instance()}" if w.instance_id else ""
    user = f" as {k.username}" if k.sasl else ""
    host = f"[{w.web_host}]" if ":" in w.web_host else w.web_host
    packages = ("faust-streaming", "aiokafka", "redis", "numpy", "numba")
    return [
        f"weir worker {version('weir')}: role {w.role}, group {w.group_id()}{member}",
        f"tasks     {', '.join(f'{t.name} on {settings.topics.name(t.stream)}' for t in tasks)}",
        f"brokers   {', '.join(k.bootstrap)} ({k.security_protocol}{user})",
        f"store     {r.url}, keys {r.prefix}:*",
        f"web       {f'http://{host}:{w.web_port}' if w.web_port else 'off'}",
        f"versions  Python {platform.python_version()}, {', '.join(f'{p} {_version(p)}' for p in packages)}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _MISSING


def address(web: str | None) -> dict[str, object]:
    """``--web`` as settings; their own check says what is wrong with a port."""
    if web is None:
        return {}
    host, _, port = web.rpartition(":")
    if port in ("off", "0"):
        return {"worker.web_port": 0}
    if port != "auto" and not port.isdigit():
        raise UsageError(f"--web {web!r}: give HOST:PORT, :PORT, auto or off")
    return {"worker.web_host": host.strip("[]") or None, "worker.web_port": port if port == "auto" else int(port)}


def needed() -> None:
    """Everything that the extra brings is there; raises ``UsageError`` naming what is not."""
    absent = [package for package in _NEEDS if _version(package) == _MISSING]
    if absent:
        raise UsageError(f"a worker needs {', '.join(absent)}, not installed here; run: pip install 'weir[kafka]'")


def _check(settings: Settings, tasks: Sequence[TaskSpec]) -> None:
    """Print what a worker would find; raises ``Exit(2)`` when something is missing."""
    checks = [Check("tasks", "OK", ", ".join(task.name for task in tasks))]
    checks += [*check_kafka(settings), *check_redis(settings.redis)]
    checks += import_module("streams.full.checks").check_full(settings, tasks)  # late: it brings aiokafka
    report(checks)


def report(checks: Sequence[Check]) -> None:
    """Print checks; raises ``Exit(2)`` when one failed."""
    output().print(checks_table(checks))
    failed = sum(check.status == "FAIL" for check in checks)
    warned = sum(check.status == "WARN" for check in checks)
    if failed:
        notes().print(f"not ready: {failed} of {len(checks)} checks failed")
        raise typer.Exit(2)
    notes().print(f"ready{f', with {warned} warnings' if warned else ''}")


def log_to_stderr(level: str) -> None:
    """Log from ``level`` on, without what libraries tell of themselves; raises ``UsageError`` for no level."""
    if level not in _LEVELS:
        raise UsageError(f"--log-level {level!r}: give {', '.join(_LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    if level != "debug":
        logging.getLogger().handlers[0].addFilter(_worth_reading)
        for name, least in _QUIET.items():
            logging.getLogger(name).setLevel(max(least, logging.getLogger().level))


def _worth_reading(record: logging.LogRecord) -> bool:
    """Whether a record is not Faust's book-keeping: its services coming and going, its agents cancelled by design."""
    if record.exc_info and record.exc_info[0] is asyncio.CancelledError:
        return False
    return record.levelno > logging.INFO or not str(record.msg).startswith("[^")


def _runner() -> Callable[[Settings, Sequence[TaskSpec], Role], int | None]:
    """What runs a worker; imported late, because it brings Faust."""
    run: Callable[[Settings, Sequence[TaskSpec], Role], int | None] = import_module("streams.worker").run_worker
    return run
