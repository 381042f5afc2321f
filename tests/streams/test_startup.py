"""A command answers at once: what ``weir --help`` and settings may import, and that help tells what is there."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from weir.streams.cli.app import app
from weir.streams.cli.main import COMMANDS
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.service.store.database import open_database

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "numba", "llvmlite", "numpy", "scipy", "river", "pandas", "faust", "mode", "aiokafka", "kafka", "redis", "pyarrow",
    "torch", "onnxruntime", "onnx", "lightgbm", "rich", "aiohttp",
}  # fmt: skip
"""Each takes longer to import than ``weir --help`` may."""
NOT_IN_A_WORKER = {
    "scipy.linalg", "scipy.sparse", "scipy.special", "scipy.stats", "river", "pandas", "pyarrow", "pyarrow.compute",
    "pyarrow.parquet", "torch", "onnxruntime", "onnx", "lightgbm", "sklearn", "rich", "typer",
}  # fmt: skip
"""Each costs megabytes of every worker process."""
NOT_IN_A_SERVICE = NOT_IN_A_WORKER - {"onnxruntime", "rich"} | {"aiohttp", "alembic"}
MODULES_OF = """
import contextlib, io, json, sys
{code}
print(json.dumps(sorted(sys.modules)))
"""
HELP_OF = """
from weir.streams.cli.app import app
for words in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        app([*words, "--help"], prog_name="weir", standalone_mode=False)
    assert "Usage: weir" in shown.getvalue(), words
    assert not {heavy!r} & set(sys.modules), words
"""


def modules_after(code: str) -> set[str]:
    """What is imported after ``code`` ran in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MODULES_OF.format(code=code)], env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout))


def typer_group(group: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, groups before what is in them."""
    found = [words]
    for name in getattr(group, "commands", ()):
        found += typer_group(group.get_command(None, name), (*words, name))
    return found


EVERY = typer_group(get_command(app))


def test_there_are_commands_in_groups() -> None:
    assert ("topics", "create") in EVERY
    assert len(EVERY) > 2 * len(COMMANDS) - 10 > 20


def options(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every option that help shows, by its command and its first name."""
    for name in getattr(command, "commands", ()):
        yield from options(command.get_command(None, name), f"{path} {name}")
    shown = (option for option in command.params if option.opts[0].startswith("-") and not option.hidden)
    yield from ((f"{path} {option.opts[0]}", option) for option in shown)


def test_an_option_takes_a_value_in_all_commands_or_in_none() -> None:
    # By its first name: others are of before, and still taken.
    kinds: dict[str, dict[bool, list[str]]] = {}
    for name, option in options(get_command(app), "weir"):
        long = next((each for each in option.opts if each.startswith("--")), option.opts[0])
        kinds.setdefault(long, {}).setdefault(bool(option.is_flag), []).append(name)
    assert len(kinds) > 60
    assert not {name: of for name, of in kinds.items() if len(of) > 1}


@pytest.mark.parametrize(
    ("words", "long", "before"),
    [
        (("send",), "--only-labels", "--labels"),
        (("replay",), "--with-labels", "--labels"),
        (("compare",), "--report", "--json"),
        (("retrain",), "--why", "--reason"),
        (("examples", "quarantine"), "--why", "--reason"),
        (("examples", "quarantine"), "--wait-for", "--wait"),
        (("partitions", "pause"), "--timeout", "--wait"),
    ],
)
def test_an_option_of_before_is_still_taken(words: Sequence[str], long: str, before: str) -> None:
    command: Any = get_command(app)
    for word in words:
        command = command.get_command(None, word)
    assert [option.opts for option in command.params if long in option.opts] == [[long, before]]


def test_every_number_on_a_command_line_has_a_least_and_a_most() -> None:
    numbers = {name: o for name, o in options(get_command(app), "weir") if o.type_descriptor.annotation in (int, float)}
    for name in ("weir serve --port", "weir worker --processes"):
        del numbers[name]  # settings, with limits of their own
    assert len(numbers) > 30
    without = [name for name, option in numbers.items() if option.min is None or option.max is None]
    assert not without


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1", "1e300"])
@pytest.mark.parametrize(
    "words",
    [("tune", "x", "--minutes"), ("retrain", "-t", "x", "--timeout"), ("keys", "create", "x", "--records-per-s")],
)
def test_no_time_and_no_rate_is_without_a_limit(words: Sequence[str], value: str) -> None:
    done = CliRunner().invoke(app, [*words, value])
    assert done.exit_code == 2
    assert words[-1] in done.stderr


def test_help_imports_nothing_heavy() -> None:
    assert not HEAVY & modules_after(HELP_OF.format(commands=EVERY, heavy=HEAVY))


@pytest.mark.parametrize(
    "words", [["--nothing"], ["nothing"], ["backtest"], ["topics", "nothing"], ["demo", "--days", "x"]]
)
def test_a_wrong_command_line_imports_nothing_heavy_but_what_prints_the_error(words: list[str]) -> None:
    code = f"""
from weir.streams.cli.main import run
sys.argv = ["weir", *{words!r}]
with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.suppress(SystemExit):
    run()
assert told.getvalue().startswith("error: "), told.getvalue()
"""
    assert HEAVY & modules_after(code) == {"rich"}


def test_settings_import_nothing_heavy() -> None:
    assert not HEAVY & modules_after("from weir.streams.config.settings import load_settings; load_settings()")


def test_a_module_that_is_heavy_is_seen() -> None:
    assert "numba" in modules_after("import weir.online.stages.scoring")


def test_a_worker_holds_only_what_its_tasks_need(tmp_path: Path) -> None:
    """Of scipy numba itself imports the outermost package."""
    churn = ROOT / "streams" / "demo" / "tasks" / "churn.toml"
    head, _, tail = churn.read_text().partition("[model]")
    model = '[model]\nkind = "river"\nestimator = "linear_model.LogisticRegression"\n'
    (tmp_path / "river.toml").write_text(f"{head}{model}[labels.silence]{tail.partition('[labels.silence]')[2]}")
    code = f"""
import weir.streams.worker.run
from pathlib import Path
from weir.streams.task_files import load_task
load_task(Path({str(churn)!r}))
unwanted = {NOT_IN_A_WORKER!r} & set(sys.modules)
assert not unwanted, unwanted
load_task(Path({str(tmp_path / "river.toml")!r}))
"""
    assert "river" in modules_after(code)


def test_a_service_that_starts_again_holds_only_what_it_uses(tmp_path: Path) -> None:
    """Alembic, when its tables are there already, pyarrow, before something is trained."""
    open_database(ServeSettings(directory=tmp_path)).dispose()
    code = f"""
from pathlib import Path
from weir.streams.config.settings import Settings
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.run import configured
from weir.streams.task_files import load_task
settings = Settings.model_validate({{"serve": {{"directory": {str(tmp_path)!r}}}}})
fraud = load_task(Path({str(ROOT / "streams" / "demo" / "tasks" / "fraud.toml")!r}))
assert fraud.full is not None, "so that there is a trainer"
configured(embedded_service(settings, [fraud]), settings.serve)
"""
    unwanted = NOT_IN_A_SERVICE & modules_after(code)
    assert not unwanted


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_their_help_says(name: str) -> None:
    command: Any = get_command(app)
    shown = inspect.cleandoc(command.get_command(None, name).help)
    assert COMMANDS[name] == shown.partition("\n")[0]


def test_every_module_of_a_command_is_in_the_table() -> None:
    found = set()
    for path in (ROOT / "streams" / "cli").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        held = vars(import_module(f"weir.{module}"))
        if f"{path.stem}_command" in held or isinstance(held.get(f"{path.stem}_app"), typer.Typer):
            found.add(path.stem.replace("_", "-"))
    assert found == set(COMMANDS)
