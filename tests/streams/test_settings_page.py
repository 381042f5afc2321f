"""docs/SETTINGS.md is what the models of the settings say, and what it says holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Secret

from docs.pages.model_fields import default_of, docs_of
from docs.pages.settings import Key, example, is_duration, keys, page, variable_of
from weir.streams.config.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
KEYS = list(keys())
SET = [key for key in KEYS if default_of(key.info) not in (None, (), {}) and "TOPIC" not in key.table]


def name_of(key: Key) -> str:
    return f"{key.table}.{key.name}"


def test_the_page_is_the_code() -> None:
    written = (ROOT / "docs" / "SETTINGS.md").read_text()
    assert written == page(), "run: python -m docs.pages.settings > docs/SETTINGS.md"


@pytest.mark.parametrize("key", KEYS, ids=name_of)
def test_every_key_says_what_it_means(key: Key) -> None:
    assert len(docs_of(key.model).get(key.name, "").split()) >= 4, f"write a docstring below {name_of(key)}"


def test_the_example_says_what_holds_without_it(tmp_path: Path) -> None:
    (tmp_path / "weir.toml").write_text(example())
    assert load_settings(tmp_path / "weir.toml", {}) == Settings()


def test_the_example_leaves_no_key_out() -> None:
    """The file is read (above), so that no key of it is unknown; here, that it leaves none out."""
    lines = [line.removeprefix("# ") for line in example().splitlines()]
    assert [line.partition(" =")[0] for line in lines if " =" in line] == [
        key.name for key in KEYS if not isinstance(default_of(key.info), dict)
    ]


@pytest.mark.parametrize("key", SET, ids=name_of)
def test_the_variable_sets_the_key(key: Key, tmp_path: Path) -> None:
    """An unknown variable would be refused."""
    default: Any = default_of(key.info)
    if isinstance(default, Secret):
        text = default.get_secret_value()
    elif is_duration(key):
        text = f"{default}s"
    else:
        text = ",".join(default) if isinstance(default, tuple) else str(default)
    (tmp_path / "weir.toml").touch()
    found: Any = load_settings(tmp_path / "weir.toml", {variable_of(key): text})
    for part in (*key.table.split("."), key.name):
        found = getattr(found, part)
    assert found == default
