"""A small table of payments as tests of files write it, and what a run reads of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource

TASK = """
name = "fraud"
entity = "user"
numbers = ["basket"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["mean"], windows = ["1d"], where = "zone == '01'" }]
[model]
kind = "logistic"
[source]
columns = { user_id = "who", amount = "eur", zone = "zone", basket = "basket" }
event_id = "id"
time = "at"
label = "bad"
"""
NAMES = ("id", "at", "who", "eur", "zone", "basket", "bad")
ROWS: list[list[str]] = [
    [f"e{i}", f"2026-01-{i + 5:02d} {i % 24:02d}:{i:02d}:14", f"00{i % 7}", f"{i}.25", f"0{i % 3}", f"{1000 + i}.5",
     str(i % 2)]
    for i in range(20)
]  # fmt: skip


def source(path: Path, toml: str = "") -> FileSource:
    spec = TaskSpec.from_toml(TASK + toml)
    return FileSource(spec, columns_of(spec), [path])


def events(read: FileSource) -> list[Any]:
    out: list[Any] = []
    for part in read.batches(512):
        assert [r.reason for r in part.rejects] == []
        b = part.batch
        numbers = {n: c.tolist() for n, c in b.numbers.items()}
        assert part.label is not None
        labels = [bool(v) if k else None for v, k in zip(part.label, part.labelled, strict=True)]
        for i in range(len(b)):
            texts = {n: c[i] for n, c in (b.entities | b.texts).items()}
            out.append((b.event_id[i], float(b.ts[i]), texts, {n: c[i] for n, c in numbers.items()}, labels[i]))
    return out


def text_of(rows: list[list[str]], separator: str = ",", names: tuple[str, ...] = NAMES, end: str = "\n") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text or "\n" in text else text

    return "".join(separator.join(map(cell, row)) + end for row in [list(names), *rows])


def write(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def changed(**by: Callable[[str], str]) -> list[list[str]]:
    return [[by.get(name, str)(cell) for name, cell in zip(NAMES, row, strict=True)] for row in ROWS]


def comma(text: str) -> str:
    return text.replace(".", ",")


def day_first(mark: str) -> Callable[[str], str]:
    return lambda t: f"{t[8:10]}{mark}{t[5:7]}{mark}{t[:4]} {t[11:]}"
