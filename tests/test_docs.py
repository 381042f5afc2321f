"""What the living pages and the docstrings name exists: files, modules, commands, options, targets, settings, metrics.

ADRs, docs/LOG.md and CHANGELOG.md speak of their own time: what they name may be gone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from weir.streams.cli.app import app
from weir.streams.config.settings import Settings
from weir.streams.ops.metric_definitions import DEFINITIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md", "docs/adr/README.md")),
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "LOG.md"),
]
PAGES = [page for page in PAGES if page.is_file()]
SOURCES = sorted(path for folder in ("streams", "online", "models", "docs") for path in (ROOT / folder).rglob("*.py"))
FROM = ("", "streams", "online", "models", "docs")
"""Folders that a path may be told from, beside the folder of the file that tells it."""
DOTTED = re.compile(r"`((?:weir\.)?(?:streams|online|models|tests|benchmarks|docs)(?:\.[A-Za-z_]\w*)+)")
PATH = re.compile(r"(?<![\w/.{*-])((?:[a-z_]+/)+[A-Za-z_0-9.-]+\.(?:py|md|toml|svg|txt))\b")
CODE = re.compile(r"```(?:sh|console)?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
STARTS = re.compile(r"(?:.*/)?weir (.+)")


CLASSES: dict[str, str] = {}
"""Every class by its name, with the text of its module, or of all that have one of that name."""
for source in map(Path.read_text, SOURCES):
    for name in re.findall(r"^ *class (\w+)", source, re.M):
        CLASSES[name] = CLASSES.get(name, "") + source


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def missing_names(text: str) -> Iterator[str]:
    """Dotted names in backticks of which there is no module, or no such word in the module."""
    for name in DOTTED.findall(text):
        parts, rest = name.removeprefix("weir.").split("."), list[str]()
        while parts and not (ROOT / "/".join(parts)).is_dir() and not (ROOT / f"{'/'.join(parts)}.py").is_file():
            rest.insert(0, parts.pop())
        module = ROOT / f"{'/'.join(parts)}.py"
        if rest and not (module.is_file() and re.search(rf"\b{rest[0]}\b", module.read_text())):
            yield name


TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def missing_paths(text: str, folder: Path) -> Iterator[str]:
    yield from (name for name in re.findall(r"`(test_\w+\.py)`", text) if name not in TESTS)
    places = [folder, *(ROOT / part for part in FROM)]
    for path in PATH.findall(text):
        if not any((place / path).exists() for place in places):
            yield path


def commands(text: str) -> Iterator[list[str]]:
    """Every ``weir ...`` of the page's code, without its comment."""
    for block, span in CODE.findall(text):
        for line in (block or span).replace("\\\n", " ").split("\n"):
            if found := STARTS.fullmatch(re.sub(r"^(?:\$ |deploy/init && )", "", line.partition("  #")[0].strip())):
                yield shlex.split(found[1].replace("...", ""), posix=True)


def faults_of(words: list[str]) -> Iterator[str]:
    """Commands and options that do not exist."""
    command: Any = get_command(app)
    context = command.make_context("weir", ["--help"], resilient_parsing=True)
    for word in words:
        if word.startswith("-"):
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
            if word.partition("=")[0] not in known:
                yield f"{word} of {' '.join(words)}"
        elif hasattr(command, "get_command"):
            inner = command.get_command(context, word)
            if inner is None:
                yield f"{word} of {' '.join(words)}"
                return
            command = inner


def test_files_and_modules_that_are_named_exist() -> None:
    texts = {path: path.read_text() for path in (*PAGES, *SOURCES)}
    found = {named(path): [*missing_names(text), *missing_paths(text, path.parent)] for path, text in texts.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}


SETTING = r"`\[([a-z.]+)\] ([a-z_]+)[ =`]"


PAGE_CLASS = r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.([a-z_]+))?`"
DOCSTRING_CLASS = r"(?<![`\w])`([A-Z][a-z]\w*)(?:\.(\w+))?`(?!`)"


def missing_classes(text: str, pattern: str = PAGE_CLASS) -> Iterator[str]:
    """Names in backticks that look like a class, or what it has, of which the code has none."""
    for owner, part in re.findall(pattern, text):
        found = CLASSES.get(owner)
        if found is None or (part and not re.search(rf"^ +(?:async def |def |self\.)?{part}\b", found, re.M)):
            yield f"{owner}.{part}" if part else owner


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "TASKS.md"], ids=named)
def test_classes_that_are_named_exist(path: Path) -> None:
    assert list(missing_classes(path.read_text())) == []


def test_classes_that_docstrings_name_exist() -> None:
    ours = [path for path in SOURCES if "kafka" not in path.parts]  # those of Kafka name the client's, too
    found = {named(path): list(missing_classes(path.read_text(), DOCSTRING_CLASS)) for path in ours}
    assert {name: missing for name, missing in found.items() if missing} == {}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [t for t in targets if not (path.parent / t).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_and_options_that_are_named_exist(path: Path) -> None:
    assert [fault for words in commands(path.read_text()) for fault in faults_of(words)] == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_targets_and_metrics_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {t for t in re.findall(r"`make ([a-z-]+)", text) if t not in targets} == set()
    metrics = {d.name for d in DEFINITIONS}
    told = set(re.findall(r"`(weir_[a-z_]+)(?:\{[^}]*\})?`", text))
    assert {name for name in told if name not in metrics and not name.endswith("_")} == set()


def test_settings_that_are_named_exist() -> None:
    told = ((path, *each) for path in (*PAGES, *SOURCES) for each in re.findall(SETTING, path.read_text()))
    for path, table, key in told:
        model: Any = Settings
        for part in table.split("."):
            field = model.model_fields.get(part) if model else None
            model = field.annotation if field is not None and isinstance(field.annotation, type) else None
        if model is not None and issubclass(model, BaseModel):
            assert key in model.model_fields, f"{named(path)}: [{table}] has no key {key}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("`weir worker --rol score`", "--rol of worker --rol score"),
        ("`weir workers`", "workers of workers"),
        ("```sh\nweir dlq lst   # all\n```", "lst of dlq lst"),
    ],
)
def test_the_rule_of_commands_can_fail(text: str, fault: str) -> None:
    assert [f for words in commands(text) for f in faults_of(words)] == [fault]


def test_the_map_shows_every_package_and_its_first_file() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/ARCHITECTURE.md").read_text().splitlines() if line[:1] == "|"]
    first = {name: row for row in rows if len(row) == 3 for name in re.findall(r"`(\w+)/`", row[0])}
    for layer in ("streams", "online", "models"):
        for folder in (ROOT / layer).iterdir():
            if (folder / "__init__.py").is_file():
                found = re.findall(r"`([\w/]+\.py)`", first[folder.name][2])
                assert found, f"docs/ARCHITECTURE.md names no first file of {layer}/{folder.name}"
                assert all((ROOT / layer / path).is_file() for path in found), found


def test_the_rule_of_names_can_fail() -> None:
    assert list(missing_names("``weir.online.stages.scoring.NoSuchThing``")) == [
        "weir.online.stages.scoring.NoSuchThing"
    ]
    assert list(missing_paths("see streams/worker/gone.py", ROOT)) == ["streams/worker/gone.py"]
    assert list(missing_classes("`NoSuchClass` and `LabelJoiner.nothing`")) == ["NoSuchClass", "LabelJoiner.nothing"]
    assert list(missing_classes("see `Gone.rows`, `Keep.features`, ``Gone``", DOCSTRING_CLASS)) == ["Gone.rows"]
