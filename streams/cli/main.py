"""The ``weir`` command: its subcommands, each in a module of its own, and how it ends.

It imports little: a signal that comes while the rest is imported is heard.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
import threading
import traceback
from typing import Any, Final, NoReturn

from weir.streams.ops.stop_request import INTERRUPTED, ending_at_once

_CLIENTS: Final = ("aiokafka", "faust", "kafka")
_OFFLINE: Final = {
    "init": "Make a task file of a table: times, entities, labels, features, as they are found.",
    "check": "Look at a task and its data for what is odd, before an hour is spent.",
    "demo": "Simulate users, merchants and machines, and run everything on them.",
    "backtest": "Replay files through a task: features, scores, late labels, learning, alerts.",
    "compare": "Compare task files over the same data: paired differences with intervals.",
    "simulate": "Write simulated streams of users, merchants and machines.",
}
_PROCESSES: Final = {
    "worker": "Run a worker: events in, predictions, alerts and learning out.",
    "inference": "Run an inference worker: full models for tasks with [full] remote = true.",
    "serve": "Serve tasks over HTTP: events and labels in, decisions, alerts and a live feed out.",
    "trainer": "Train full models when they are asked for, and see them through.",
}
_MODELS: Final = {
    "retrain": "Ask for a new full model of a task.",
    "tune": "Search for a better task over files, or for the settings of a task's encoder.",
    "archive": "Keep predictions, examples and events in Parquet files, one folder a day.",
    "models": "Full models: list, show, import, promote, roll back, compare, verify, clear away.",
}
_OPERATE: Final = {
    "doctor": "Check that this machine is ready to run Weir.",
    "topics": "Make, check and describe the topics of a deployment.",
    "replay": "Send events from files to topics.",
    "explain-score": "Show why an event got its score: the model of then, rebuilt, and what each feature added.",
    "tail": "Show the records of a topic, one line each, and follow it until Ctrl-C.",
    "examples": "Show the examples that online models learned, and take some of them back.",
    "dlq": "Dead letters: list, show, replay, drop.",
    "partitions": "Partitions: list, pause, resume, seek, watermark.",
    "features": "Feature rows in the store: get, rebuild.",
    "keys": "API keys of `weir serve`: create, list, revoke.",
    "audit": "Who did what in `weir serve`: show, verify.",
    "acl": "Rights: what each kind of user needs, as commands.",
}
_SERVICE: Final = {
    "send": "Send events (or labels) to a running weir serve, from files of JSON lines.",
    "decide": "Send events and print what each task decides of them: score, threshold, alert or not, and why.",
    "feed": "Follow alerts, drift, model updates and dead letters (and predictions, where asked for) until Ctrl-C.",
    "notify": "Messages about alerts: list, test.",
    "alerts": "Alerts of a running service: list, show, verdict, undo.",
}
FOLDERS: Final = {
    "offline": _OFFLINE, "processes": _PROCESSES, "service": _SERVICE, "models": _MODELS, "operate": _OPERATE
}  # fmt: skip
COMMANDS: Final = {name: line for commands in FOLDERS.values() for name, line in commands.items()}
"""Every command with the first line of its help, which a test holds to its docstring.

``explain-score`` is ``explain_score_command`` of ``weir.streams.cli.operate.explain_score``, or ``explain_score_app``
where it has commands of its own. Only the module of the command that was asked for is imported.
"""


def run() -> None:
    """Entry point: an expected error is one line on stderr and exit status 2, without a traceback.

    Behind any other error's traceback the last line says what it was; the status is 1.
    """
    # Imports and starts make very many objects, and nearly all stay; batches and requests make many that are soon gone,
    # and few cycles. So cycles are looked for seldom: it took a fifth of a worker's start.
    gc.set_threshold(200_000, 20, 20)
    with ending_at_once():
        import typer

        from weir.streams.cli.app import app
        from weir.streams.errors import WeirError, in_words
    for name in _CLIENTS:  # where a command shows no log, what they say of a link is in the error already
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        # Not standalone: typer would print its errors itself, in several lines, and end the process.
        status = app(prog_name="weir", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except WeirError as exc:
        _fail(str(exc))
    except OSError as exc:
        # Of a socket or the like: there is no path to check, so somebody has to read the traceback.
        if exc.filename is None and exc.errno in (errno.ENOSPC, errno.EDQUOT):  # of a file that was open already
            _fail(f"{exc.strerror}: free some, also for temporary files, and run it again")
        if exc.filename is None:
            traceback.print_exc()
            _fail(in_words(exc), status=1)
        _fail(f"{exc.filename}: {exc.strerror}; check the path, its rights and the free space")
    except KeyboardInterrupt:  # before typer, which makes an exit of it, had begun with the command
        sys.exit(INTERRUPTED)
    except typer.Abort:
        _fail("stopped before an answer was given", status=INTERRUPTED)
    except Exception as exc:  # noqa: BLE001 - told in full, and its last line says what it was
        if hasattr(exc, "format_message"):  # of typer, about the command line
            if type(exc).__name__ == "NoArgsIsHelpError":
                print(exc.format_message())
                sys.exit(2)
            _fail(_usage(exc))
        traceback.print_exc()
        _fail(in_words(exc), status=1)


def _usage(refused: Any) -> str:
    """What is wrong with a command line, with the value and the command that explains it."""
    message, path = refused.format_message().rstrip("."), refused.ctx.command_path if refused.ctx else "weir"
    if hasattr(refused.__cause__, "errors"):  # of pydantic, whose import would take most of the time
        from weir.online.mistakes import limit_words, shown

        fault = refused.__cause__.errors(include_url=False)[0]
        message = f"{message.partition(': ')[0]}: got {shown(fault['input'])}; give {limit_words(fault)}"
    return f"{message}; see {path} --help"


def _fail(words: str, status: int = 2) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(words)}")
    if threading.active_count() > 1:  # threads of clients that failed too: nothing they say comes behind the reason
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
