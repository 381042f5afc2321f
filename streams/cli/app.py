"""The tree of commands, as typer has it. Each command lives in its own module, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from weir.streams.cli.main import COMMANDS, FOLDERS
from weir.streams.ops.stop_request import ending_at_once

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


class _Group(TyperGroup):
    """Commands, each with the whole first line of its help."""

    def format_commands(self, _: Any, formatter: Any) -> None:
        """The table of ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.line(name)) for name in self.commands])

    def line(self, name: str) -> str:
        """The first line of a command's help."""
        return (self.commands[name].help or "").partition("\n")[0]


class _Commands(_Group):
    """``COMMANDS``, each imported when it is asked for."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # The names are enough for help and for hints at a misspelt one; `get_command` makes what is asked for.
        self.commands = dict.fromkeys(COMMANDS, cast("Any", None))

    def line(self, name: str) -> str:
        """The first line of a command's help, which imports nothing."""
        return COMMANDS[name]

    def get_command(self, _: Any, cmd_name: str) -> Any:
        """The command of that name; ``None`` where there is none."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        folder = next(folder for folder, commands in FOLDERS.items() if cmd_name in commands)
        with ending_at_once():
            module = import_module(f"weir.streams.cli.{folder}.{name}")
        made: typer.Typer | None = getattr(module, f"{name}_app", None)
        if made is None:
            made = typer.Typer()
            made.command(cmd_name)(getattr(module, f"{name}_command"))
        # What the app below is given counts for itself only; a command's app is made in a module of its own.
        made.info.cls, made.rich_markup_mode, made._add_completion = _Group, None, False
        return get_command(made)


app = typer.Typer(
    name="weir",
    cls=_Commands,
    help=_HELP,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,  # rich's own help takes longer to import than most commands to run
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        print(f"weir {version('weir')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Event-driven streaming ML on one machine or many."""
