"""The demo's full model: asked for, trained beside the events, gated, shadowed, serving; the same in every run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest

from weir.models.registry.registry import Registry
from weir.online.batch import ExampleBatch
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.demo.demo_loop import Demo, Pace
from weir.streams.demo.retraining import Marker, keep_until
from weir.streams.demo.scenario import PERIODS, Scenario
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.demo.training_memory import ExampleMemory, Examples
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.service.service import Service
from weir.streams.service.views.model_routes import jobs_of
from weir.streams.simulate import SimulationConfig

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "ewmean"], windows = ["1d", "7d"] }]
[model]
kind = "logistic"
[labels.join]
negative_after_s = "1d"
[retrain]
on_drift = false
after_labels = 2_500
[full]
state = 0
history = 0
[full.training]
candidates = ["trees"]
validation = "1d"
min_labels = 100
min_positives = 10
shadow_examples = 150
""")
TOPICS = (*topics.INPUTS, *topics.OUTPUTS, topics.MODEL_UPDATES)
TRAINING, SHADOWED = 46, 100
"""Blocks: one while the first training is under way, one behind its promotion."""


class Small(Scenario):
    """Few users, many frauds."""

    @property
    def first_training_ts(self) -> float:
        """After five days."""
        return self.simulation().start_ts + 5 * 86_400.0

    def simulation(self) -> SimulationConfig:
        """Days of eight blocks."""
        return SimulationConfig(
            seed=self.seed, events=PERIODS * self.events, days=PERIODS * self.days, users=60, devices=0,
            label_delay_days=0.5, review_share=0.8, fraud_share=0.15, drift_at=0.2,
            block_s=86_400.0 / self.blocks_per_day,
        )  # fmt: skip


class CrashedError(Exception):
    """Stands for kill -9."""


@pytest.fixture(autouse=True)
def _shown_after_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weir.streams.demo.demo_loop.SHOW_EVERY_S", 0.0)
    monkeypatch.setattr("weir.streams.demo.demo_loop._SHOW_SHARE", 1e9)


def run(directory: Path, until: int | None = None, *, crash: bool = False) -> list[DemoSnapshot]:
    """Go on in a directory, to the end of the period or until so many blocks were done; what was shown."""
    stop, shown = threading.Event(), list[DemoSnapshot]()
    with closing(Demo(directory, Small(seed=4, events=12_000, days=16), [TASK], stop)) as demo:
        demo.skip()
        done = demo.resumed_blocks

        def show(snapshot: DemoSnapshot) -> None:
            nonlocal done
            done += 1
            shown.append(snapshot)
            if done == until and crash:
                raise CrashedError
            if done == until:
                stop.set()

        shown.append(demo.run(Pace(full_speed=True, checkpoint_every_s=1e9), show).snapshot)
    return shown


def content(directory: Path) -> dict[str, list[Any]]:
    """Every record by topic."""
    with EmbeddedLog(directory=directory / "log") as log:
        return {
            t: [(r.key, _value(t, r.value), r.ts) for b in log.read([t], 0) for r in b.records]
            for t in TOPICS
        }  # fmt: skip


def _value(topic: str, value: bytes) -> Any:
    return value if topic in topics.INPUTS else orjson.loads(value)  # some of the inputs are no JSON


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoSnapshot]]:
    """A run without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weir.streams.demo.demo_loop.SHOW_EVERY_S", 0.0)
        patch.setattr("weir.streams.demo.demo_loop._SHOW_SHARE", 1e9)
        directory = tmp_path_factory.mktemp("whole")
        return directory, run(directory)


def test_the_screen_tells_of_a_model_from_the_request_to_its_service(whole: tuple[Path, list[DemoSnapshot]]) -> None:
    directory, shown = whole
    told = [row.words for row in reversed(shown[-1].drifts)]
    first = ("a training begins", "v1 passes the gate", "v1 serves")
    assert [any(words.startswith(wanted) for words in told) for wanted in first] == [True] * 3, told
    lines = [snapshot.full[0] for snapshot in shown]
    assert [line.serving for line in lines] == sorted(line.serving for line in lines)
    for wanted in ("training since", "judged: "):
        assert any(wanted in line.words and line.busy for line in lines), wanted
    assert Registry(str(directory / "models")).champion("fraud") == lines[-1].serving >= 1
    assert lines[0].history == ()
    assert len(lines[-1].history) >= 2
    assert not (directory / "work").exists()


def test_its_trainings_are_where_the_console_looks_for_them(whole: tuple[Path, list[DemoSnapshot]]) -> None:
    settings = SimpleNamespace(models=SimpleNamespace(registry=str(whole[0] / "models")))
    jobs = jobs_of(cast(Service, SimpleNamespace(settings=settings)), [TASK])
    assert [job["stage"] for job in jobs][-1] == "promoted"


def test_its_scores_are_logged_from_the_promotion_on(whole: tuple[Path, list[DemoSnapshot]]) -> None:
    found = content(whole[0])
    promoted = next(ts for _, update, ts in found[topics.MODEL_UPDATES] if update["action"] == "promote")
    served = [(p["ts"] >= promoted, p["features"]["full.version"]) for _, p, _ in found[topics.PREDICTIONS]]
    assert {version for late, version in served if not late} == {0}
    assert all(version >= 1 for late, version in served if late)
    assert all(p["degraded"] == (p["features"]["full.known"] == 0) for _, p, _ in found[topics.PREDICTIONS])


def test_stopped_while_it_trains_killed_behind_a_promotion_and_moved_is_the_same_as_never(
    whole: tuple[Path, list[DemoSnapshot]], tmp_path: Path
) -> None:
    shown = run(tmp_path, TRAINING)
    assert "training since" in shown[-1].full[0].words
    with pytest.raises(CrashedError):
        run(tmp_path, SHADOWED, crash=True)
    assert Registry(str(tmp_path / "models")).champion("fraud") == 1
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    last = run(moved)[-1]
    assert (last.drifts, last.full) == (whole[1][-1].drifts, whole[1][-1].full)
    one, other = content(moved), content(whole[0])
    assert {topic: len(records) for topic, records in one.items()} == {t: len(r) for t, r in other.items()}
    assert [topic for topic in TOPICS if one[topic] != other[topic]] == []


def examples(ids: list[str], ts: list[float], value: float = 1.0) -> ExampleBatch:
    n = len(ids)
    x = np.full((n, 3), value) * np.array([1.0, 9.0, 9.0])
    ones = np.ones(n)
    return ExampleBatch(ids, np.array(ts), x, ones / 2, ones > 0, ones, ones < 0)


def features() -> tuple[str, ...]:
    return ("amount", "full.logit", "full.known")


def test_the_memory_makes_a_history_in_the_order_of_events_and_keeps_corrections() -> None:
    memory = ExampleMemory(features())
    memory.add(Examples.of(examples(["b", "a"], [20.0, 10.0]), 30.0))
    memory.add(Examples.of(examples(["b"], [20.0]), 40.0))
    logged = memory.logged()
    assert logged.history.event_id == ["a", "b"]
    assert logged.history.inputs == ("amount",)
    assert logged.history.x.tolist() == [[1.0], [1.0]]
    assert (logged.labels.row.tolist(), logged.labels.known_at.tolist()) == ([1, 0, 1], [30.0, 30.0, 40.0])


def test_the_memory_is_bounded_and_comes_back_from_its_snapshot() -> None:
    memory = ExampleMemory(features(), kept=10)
    for k in range(50):
        memory.add(Examples.of(examples([f"{k}a", f"{k}b"], [k, k + 0.5]), k + 1.0))
    assert 10 <= len(memory) < 12
    again = ExampleMemory(features(), kept=10)
    again.restore(memory.snapshot())
    assert (
        again.logged().history.event_id
        == memory.logged().history.event_id
        == [f"{k}{c}" for k in range(45, 50) for c in "ab"]
    )


def test_what_came_behind_a_checkpoint_leaves_the_registry(tmp_path: Path) -> None:
    made: Callable[[str], Path] = lambda name: tmp_path / "fraud" / name  # noqa: E731
    for name in ("1/manifest.json", "2/claim.json", "stages/00000001.json", "stages/00000002.json"):
        made(name).parent.mkdir(parents=True, exist_ok=True)
        made(name).write_text("{}")
    keep_until(tmp_path, "fraud", Marker(version=1, entry=1))
    assert [made("1").exists(), made("2").exists()] == [True, False]
    assert [path.name for path in made("stages").iterdir()] == ["00000001.json"]
