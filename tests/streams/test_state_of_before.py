"""The state directory of an embedded host of commit 12015ac: its checkpoint is refused, its log is read.

What a worker of then left behind goes on: tests/integration/test_state_of_before.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.fixtures.old_state import PARTITIONS, old_state, tasks
from tests.streams.host_runs import process_all
from weir.online.codec.example_log import decode_example_log
from weir.online.errors import StateError
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.model_replicas.fold import ExampleFold

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
            process_all(host)
        wanted, found = predictions(old), predictions(new)
    assert {task for task, _ in wanted.keys() ^ found.keys()} == {"quiet"}
    by_events = [at for at in wanted if at[0] != "quiet"]
    assert len(by_events) > 450
    for at in by_events:
        assert found[at]["model_version"] == wanted[at]["model_version"], at
        assert without(found[at]["features"], CLOCKED) == nearly(without(wanted[at]["features"], CLOCKED)), at
        if at[0] == "spend":
            assert found[at]["score"] == nearly(wanted[at]["score"]), at


def nearly(expected: Any) -> Any:
    """What was made by another processor, whose exponential function may differ in the last digit."""
    return pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


CLOCKED = "user.risk_since_positive"
"""When a label became known, and when a timer of ``quiet`` is due: today time waits for a second clock (max_step)."""


def without(features: dict[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in features.items() if key != name}


@pytest.mark.parametrize("task", tasks(), ids=lambda task: str(task.name))
def test_the_model_learned_again_from_the_examples_of_before_scores_as_it_did(task: TaskSpec) -> None:
    state, fold = old_state().redis_and_kafka, ExampleFold.of(task)
    examples = [value for _, value in state.topics[topics.EXAMPLES][0]]
    found = decode_example_log(examples, {task.name: fold.features}).tasks.get(task.name)
    if found is not None:
        fold.take(found.batch, np.asarray(found.index, np.int64))
    made = [orjson.loads(value) for log in state.after[topics.PREDICTIONS].values() for _, value in log]
    scored = [p for p in made if p["task"] == task.name and p["model_version"] == fold.model.version]
    assert len(scored) > 20
    x = np.array([[p["features"][name] for name in fold.features] for p in scored], np.float64)
    np.testing.assert_allclose(fold.model.score(x)[0], [p["score"] for p in scored], rtol=1e-12)


def predictions(log: EmbeddedLog) -> dict[tuple[str, str], dict[str, Any]]:
    made = [orjson.loads(r.value) for batch in log.read([topics.PREDICTIONS], 0) for r in batch.records]
    return {(p["task"], p["event_id"]): p for p in made}
