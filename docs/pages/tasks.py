"""The tables of keys in docs/TASKS.md, made from the models: ``python -m docs.pages.tasks`` writes them into the page.

The prose of the page is written by hand, around the two markers; all between them is made here. Who adds a key to a
task file writes a docstring below the field (for a learner, a line in the class's ``Parameters``), runs the command,
and gives an example in ``docs.pages.task_examples`` where the default shows none. Tests say which of these is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from docs.pages.model_fields import plain
from docs.pages.task_tables import Key, Table, tables

PAGE: Final = Path(__file__).parents[1] / "TASKS.md"
BEGIN: Final = "<!-- made by python -m docs.pages.tasks: begin -->\n"
END: Final = "<!-- made by python -m docs.pages.tasks: end -->\n"
_COLUMNS: Final = "| key | may be | default | example | meaning |\n|---|---|---|---|---|\n"


def page(text: str) -> str:
    """The page with its tables as the models have them; raises ``ValueError`` where a marker is gone."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/TASKS.md: put back the lines {BEGIN.strip()} and {END.strip()}")
    made = "".join(map(_section, tables()))
    return f"{before}{BEGIN}{made}\n{END}{after}"


def _section(table: Table) -> str:
    if not table.keys:
        return ""
    return f"\n### {table.title}\n\n{_COLUMNS}{''.join(map(_row, table.keys))}"


def _row(key: Key) -> str:
    example = f"`{key.name} = {key.example}`".replace("|", "\\|") if key.example else "-"
    return f"| `{key.name}` | {key.type} | {key.default} | {example} | {plain(key.meaning)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
