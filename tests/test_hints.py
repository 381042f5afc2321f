"""A message that names an extra to install names one that brings the package which is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"faust-streaming": "faust", "kafka-python": "kafka", "prometheus-client": "prometheus_client"}
"""Packages that are imported under another name."""
BY_HAND = {
    "no builder of this kind here": {"torch", "lightgbm"},
    "reading from Kafka needs": {"aiokafka"},
    "a trainer needs": {"aiokafka", "lightgbm", "onnxruntime", "torch", "croniter"},
    "but this ONNX Runtime has only": {"onnxruntime"},
}
"""Hints that stand too far from the import that fails: what they can be about."""
HINT = re.compile(r"weir\[([a-z,]+)\]")


def packages_of(extra: str) -> set[str]:
    """The packages that an extra brings, and those of the extras within it."""
    found: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.split(r"[><=\[]", requirement)[0]
        found |= packages_of(requirement[5:-1]) if name == "weir" else {name.removesuffix("-gpu")}
    return found


ALL = set().union(*map(packages_of, PROJECT["optional-dependencies"]))


def texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def packages_in(function: ast.AST, module: ast.Module) -> set[str]:
    """Packages that a function, or a constant of the module that it reads, imports, looks for or names."""
    names = {part.id for part in ast.walk(function) if isinstance(part, ast.Name)}
    constants = [
        node
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and names & {t.id for t in (node.targets if isinstance(node, ast.Assign) else [node.target])
                     if isinstance(t, ast.Name)}
    ]  # fmt: skip
    said = {word for node in (function, *constants) for text in texts(node)
            for word in re.findall(r"[\w-]+", re.sub(HINT, "", text))}  # fmt: skip
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            said |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            said.add((node.module or "").split(".")[0])
    return {package for package in ALL if said & {package, IMPORTED_AS.get(package, package)}}


def hints() -> Iterator[tuple[str, str, set[str]]]:
    """Where a hint is, its extras, and the packages that it is about."""
    for layer in ("models", "online", "streams"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            source = path.read_text()
            if "weir[" not in source:
                continue
            module = ast.parse(source)
            for function in ast.walk(module):
                if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                doc = ast.get_docstring(function, clean=False)
                said = " ".join(text for text in texts(function) if text != doc)
                found = {extra for extras in HINT.findall(said) for extra in extras.split(",")}
                if "weir[" in said:  # the extra of a provider is chosen at run time
                    by_hand = next((packages for words, packages in BY_HAND.items() if words in said), None)
                    where = f"{path.relative_to(ROOT)}:{function.name}"
                    yield where, ",".join(sorted(found or {"cpu", "gpu"})), by_hand or packages_in(function, module)


HINTS = list(hints())


def test_the_hints_are_found() -> None:
    assert len(HINTS) >= 14
    assert packages_of("train") >= {"torch", "lightgbm"}


@pytest.mark.parametrize(("where", "extras", "packages"), HINTS, ids=[where for where, _, _ in HINTS])
def test_the_extra_of_a_hint_brings_the_package(where: str, extras: str, packages: set[str]) -> None:
    assert packages, f"{where}: the hint at weir[{extras}] is about no package that this test can find; name it"
    together = "," in extras and where.endswith("_trainer_module")  # all of them are to be installed, not one
    brought = [packages_of(extra) for extra in extras.split(",")]
    for of_extra in [set().union(*brought)] if together else brought:
        assert packages <= of_extra, f"{where}: weir[{extras}] does not bring {sorted(packages - of_extra)}"


def test_every_package_that_doctor_calls_optional_is_in_an_extra() -> None:
    from weir.streams.cli.operate.doctor import OPTIONAL, REQUIRED

    assert {name for name, _, _ in OPTIONAL} <= ALL
    assert set(REQUIRED) == {re.split(r"[><=]", each)[0] for each in PROJECT["dependencies"]}
