"""The ``weir`` command. Each subcommand lives in its own module; this one only puts them together."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from importlib.metadata import version
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from online.errors import WeirError
from online.mistakes import limit_words, shown
from streams.cli.acl import acl_app
from streams.cli.archive import archive_command
from streams.cli.backtest import backtest_command
from streams.cli.demo import demo_command
from streams.cli.dlq import dlq_app
from streams.cli.doctor import doctor_command
from streams.cli.examples import examples_app
from streams.cli.explain_score import explain_score_command
from streams.cli.features import features_app
from streams.cli.inference import inference_command
from streams.cli.models import models_app
from streams.cli.partitions import partitions_app
from streams.cli.replay import replay_command
from streams.cli.retrain import retrain_command
from streams.cli.simulate import simulate_command
from streams.cli.tail import tail_command
from streams.cli.topics import topics_app
from streams.cli.torture import torture_command
from streams.cli.trainer import trainer_command
from streams.cli.tune import tune_command
from streams.cli.worker import worker_command
from streams.errors import in_words

_HELP: Final = """
Event-driven streaming ML: features, online learning from late labels, full models, explained alerts, drift.

Settings come from --config, $WEIR_CONFIG or ./weir.toml, and from WEIR_* in the environment, as WEIR_KAFKA__BOOTSTRAP.

Exit status: 0 done; 1 looked, and it is not as it should be (or a fault of Weir's own, with its traceback); 2 an error,
said in the last line; 3 a backtest scored no row; 130 Ctrl-C; of commands that keep running also 70 (they hung) and 75
(stopping took too long).

For example:

    weir doctor

    weir demo

    weir backtest fraud.toml --data payments.parquet --scores scores.parquet
"""
_CLIENTS: Final = ("aiokafka", "faust", "kafka")

app = typer.Typer(
    name="weir",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("demo")(demo_command)
app.command("backtest")(backtest_command)
app.command("simulate")(simulate_command)
app.command("doctor")(doctor_command)
app.add_typer(topics_app, name="topics")
app.command("worker")(worker_command)
app.command("inference")(inference_command)
app.command("trainer")(trainer_command)
app.command("retrain")(retrain_command)
app.command("tune")(tune_command)
app.command("archive")(archive_command)
app.add_typer(models_app, name="models")
app.command("replay")(replay_command)
app.command("torture")(torture_command)
app.command("explain-score")(explain_score_command)
app.command("tail")(tail_command)
app.add_typer(examples_app, name="examples")
app.add_typer(dlq_app, name="dlq")
app.add_typer(partitions_app, name="partitions")
app.add_typer(features_app, name="features")
app.add_typer(acl_app, name="acl")


def _version(show: bool) -> None:
    if show:
        print(f"weir {version('weir')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Event-driven streaming ML on one machine or many."""


def run() -> None:
    """Entry point: an expected error is one line on stderr and exit status 2, without a traceback.

    Behind any other error's traceback the last line says what it was; the status is 1.
    """
    for name in _CLIENTS:  # where a command shows no log, what they say of a link is in the error already
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        status = app(prog_name="weir", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except WeirError as exc:
        _fail(str(exc))
    except OSError as exc:
        if exc.filename is None:
            traceback.print_exc()
            _fail(in_words(exc), status=1)
        _fail(f"{exc.filename}: {exc.strerror}; check the path, its rights and the free space")
    except typer.Abort:
        _fail("stopped before an answer was given", status=1)
    except Exception as exc:  # noqa: BLE001 - told in full, and its last line says what it was
        if hasattr(exc, "format_message"):  # of typer, about the command line
            _fail(_usage(exc)) if exc.format_message() else sys.exit(2)
        traceback.print_exc()
        _fail(in_words(exc), status=1)


def _usage(refused: Any) -> str:
    """What is wrong with a command line, with the value and the command that explains it."""
    message, path = refused.format_message().rstrip("."), refused.ctx.command_path if refused.ctx else "weir"
    if isinstance(refused.__cause__, ValidationError):
        fault = refused.__cause__.errors(include_url=False)[0]
        message = f"{message.partition(': ')[0]}: got {shown(fault['input'])}; give {limit_words(fault)}"
    return f"{message}; see {path} --help"


def _fail(words: str, status: int = 2) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(words)}")
    if threading.active_count() > 1:  # threads of clients that failed too: nothing they say comes behind the reason
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
