"""docs/NOTEBOOK.md runs from top to bottom and shows what it prints; ``WEIR_UPDATE_NOTEBOOK=1`` writes that down."""

from __future__ import annotations

import ast
import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs/NOTEBOOK.md"
CELL = re.compile(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)


def printed(source: str, names: dict[str, Any]) -> str:
    """What a cell prints, and the value of its last expression as a notebook shows it."""
    tree, out = ast.parse(source), io.StringIO()
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(out):
        exec(compile(tree, PAGE.name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)
            if value is not None:
                print(repr(value))
    return out.getvalue()


def filled(text: str) -> str:
    """The page with the outputs that its cells have now."""
    names: dict[str, Any] = {}

    def cell(found: re.Match[str]) -> str:
        said = printed(found[1], names)
        return f"```python\n{found[1]}```\n" + (f"\n```text\n{said}```\n" if said else "")

    return CELL.sub(cell, text)


def test_the_notebook_shows_what_it_prints() -> None:
    text = filled(PAGE.read_text())
    if os.environ.get("WEIR_UPDATE_NOTEBOOK"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "if that is right: WEIR_UPDATE_NOTEBOOK=1 pytest tests/test_notebook.py"


def test_a_page_that_shows_something_else_is_found() -> None:
    assert filled("```python\n1 + 1\n```\n\n```text\n3\n```\n") == "```python\n1 + 1\n```\n\n```text\n2\n```\n"
