"""The state directory of an embedded host of commit 12015ac: its checkpoint is refused, its log is read.

What a worker of then left behind goes on: tests/integration/test_state_of_before.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fixtures.old_state import PARTITIONS, old_state, tasks
from weir.online.errors import StateError
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog

KEYED = {topics.USER_EVENTS: PARTITIONS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in old_state().embedded.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_checkpoint_is_refused_with_the_reason_and_nothing_is_lost(folder: Path) -> None:
    with EmbeddedLog(KEYED, folder / "log") as log:
        host = EmbeddedHost(tasks(), log, checkpoints=folder)
        with pytest.raises(
            StateError,
            match=r"^table 'fraud.merchant' holds rows of 208 B, schema 843d8c69, but the task now wants 304 B, schema "
            r"d61acc99: its aggregates changed, or another version of Weir wrote it; start with a fresh directory$",
        ):
            host.resume()
    for name, content in old_state().embedded.items():
        assert (folder / name).read_bytes() == content, f"{name}: who goes back finds it as it was"


def test_the_log_of_before_gives_the_scores_of_before(folder: Path) -> None:
    with EmbeddedLog(KEYED, folder / "log") as old, EmbeddedLog(KEYED) as new:
        host = EmbeddedHost(tasks(), new)
        for batch in old.read([topics.USER_EVENTS, topics.LABELS], 0):
            new.append(batch.topic, batch.records)
            host.run_pending()
        wanted, found = predictions(old), predictions(new)
    assert {task for task, _ in wanted.keys() ^ found.keys()} == {"quiet"}
    by_events = [at for at in wanted if at[0] != "quiet"]
    assert len(by_events) > 450
    for at in by_events:
        assert found[at]["model_version"] == wanted[at]["model_version"], at
        assert without(found[at]["features"], CLOCKED) == without(wanted[at]["features"], CLOCKED), at
        if at[0] == "spend":
            assert found[at]["score"] == wanted[at]["score"], at


CLOCKED = "user.risk_since_positive"
"""When a label became known, and when a timer of ``quiet`` is due: today time waits for a second clock (max_step)."""


def without(features: dict[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in features.items() if key != name}


def predictions(log: EmbeddedLog) -> dict[tuple[str, str], dict[str, Any]]:
    made = [orjson.loads(r.value) for batch in log.read([topics.PREDICTIONS], 0) for r in batch.records]
    return {(p["task"], p["event_id"]): p for p in made}
