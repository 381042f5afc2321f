"""docs/SETTINGS.md is what the models of the settings say, and what it says holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Secret

from docs.pages.model_fields import default_of, docs_of
from docs.pages.settings import Key, example, is_duration, keys, page, variable_of
from weir.streams.config.settings import Settings, load_settings
from weir.streams.config.worker_settings import LinkSettings
from weir.streams.kafka.transport_settings import transport_settings
from weir.streams.worker.process import transport_fields

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


BOUNDS = [
    (name, bound)
    for name, of in LinkSettings.model_json_schema()["properties"].items()
    for bound in (of.get("minimum"), of.get("maximum"), of.get("exclusiveMinimum", -1) + 0.001)
    if bound is not None and bound > 0
]


@pytest.mark.parametrize(("name", "bound"), BOUNDS)
def test_every_value_that_the_page_allows_is_taken_by_the_link_to_kafka(name: str, bound: float) -> None:
    """``session_timeout_s = 30`` ended a worker with a traceback: the link held it against a limit of its own."""
    settings = Settings.model_validate({"worker": {name: bound, "watchdog_s": 0}})
    link = transport_settings(settings, "weir-score", None, **transport_fields(settings))
    assert getattr(link, name) == bound
    assert 3 * link.heartbeat_s <= link.session_timeout_s < link.request_timeout_s > link.rebalance_timeout_s
    assert link.hook_timeout_s < link.session_timeout_s
    assert 2 * link.drain_s <= link.rebalance_timeout_s
    assert link.produce_batch_bytes <= link.max_record_bytes


def test_what_follows_from_the_defaults_is_what_was_measured() -> None:
    link = transport_settings(Settings(), "weir-score")
    found = (link.heartbeat_s, link.rebalance_timeout_s, link.request_timeout_s, link.hook_timeout_s)
    assert (*found, link.produce_batch_bytes, link.fetch_interval_s) == (1.0, 8.0, 15.0, 4.0, 1 << 18, 0.008)
