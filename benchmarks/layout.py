"""How the house reads, in numbers: cycles between packages, imports, files, names, comments.

Run: ``python -m benchmarks.layout [--old CHECKOUT]``. Prints a table, with another checkout beside this one, and one
JSON line. It reads source text only and imports nothing of Weir.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

LAYERS: Final = ("streams", "online", "models")
GOALS: Final = {
    "package cycles": "0", "own imports of a module, p90": "<= 6", "files in the largest folder": "<= 18",
    "lines of product code": "< 60,000", "file names used more than once": "<= 20",
    "classes named by a participle": "0", "comment lines in 100": ">= 2.5",
}  # fmt: skip
_PARTICIPLE: Final = re.compile(r"_?[A-Z][a-z]+(ed|en|wn|ought|aid|elt|eft|ost)$")
_NOT_PARTICIPLES: Final = frozenset({"Seed", "Speed", "Need", "Feed", "Token", "Host", "Cost", "Screen", "Listen"})


def modules(root: Path) -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for path in (p for layer in LAYERS for p in sorted((root / layer).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def read(text: str, known: Mapping[str, Path]) -> tuple[set[str], list[str]]:
    """Own modules that a module imports, also within functions and for types; and the names of its classes."""
    found, classes = set(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("weir.") for alias in node.names} & known.keys()
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.removeprefix("weir.")
            names = [f"{module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else module for name in names} & known.keys()
        elif isinstance(node, ast.ClassDef):
            classes.append(node.name)
    return found, classes


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of packages, two levels deep, that import each other (strongly connected components; Tarjan 1972)."""
    packages: dict[str, set[str]] = defaultdict(set)
    for module, targets in edges.items():
        own = ".".join(module.split(".")[:2])
        packages[own] |= {".".join(t.split(".")[:2]) for t in targets} - {own} - set(LAYERS)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(package: str) -> None:
        order[package] = low[package] = len(order)
        stack.append(package)
        for target in packages.get(package, ()):
            if target not in order:
                visit(target)
            if target in stack:
                low[package] = min(low[package], low[target])
        if low[package] == order[package]:
            group = stack[stack.index(package) :]
            del stack[-len(group) :]
            found.append(group)

    for package in sorted(packages):
        if package not in order:
            visit(package)
    return [sorted(group) for group in found if len(group) > 1]


def comments(texts: Iterable[str]) -> int:
    """Lines that hold a comment; directives to tools do not count."""
    tool = re.compile(r"#\s*(noqa|type:|fmt:|pragma|mypy)")
    count = 0
    for text in texts:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        count += sum(t.type == tokenize.COMMENT and not tool.match(t.string) for t in tokens)
    return count


def measure(root: Path) -> dict[str, float]:
    """The numbers of one checkout."""
    known = modules(root)
    texts = {name: path.read_text() for name, path in known.items()}
    edges, classes = {}, []
    for name, text in texts.items():
        targets, own = read(text, known)
        edges[name] = targets - {name}
        classes += own
    lines = sum(len(text.splitlines()) for text in texts.values())
    files = Counter(path.name for path in known.values() if path.name != "__init__.py")
    counts = sorted(len(targets) for targets in edges.values())
    bare = [name for name in classes if _PARTICIPLE.match(name) and name.lstrip("_") not in _NOT_PARTICIPLES]
    return {
        "package cycles": len(cycles(edges)),
        "own imports of a module, p90": counts[int(0.9 * len(counts))],
        "files in the largest folder": max(Counter(path.parent for path in known.values()).values()),
        "lines of product code": lines,
        "file names used more than once": sum(n > 1 for n in files.values()),
        "classes named by a participle": len(bare),
        "comment lines in 100": round(100 * comments(texts.values()) / lines, 2),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    args = parser.parse_args()
    here = measure(Path(__file__).resolve().parents[1])
    old = measure(args.old) if args.old else {}
    table = Table("", *(["old"] if old else []), "here", "to reach", title="How the house reads")
    for name, value in here.items():
        table.add_row(name, *([f"{old[name]:,}"] if old else []), f"{value:,}", GOALS[name])
    Console().print(table)
    print(json.dumps({"here": here, "old": old}))


if __name__ == "__main__":
    main()
