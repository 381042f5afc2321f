"""Full models as they are loaded and swapped in one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.streams.full_events import START, events, feature, loaded, predictions, serving
from tests.streams.full_graphs import LOGIT, Models
from tests.streams.host_runs import process_all
from tests.work import calls_of
from weir.models.serving.active_models import ModelSlots, Pair
from weir.models.types import StepModel
from weir.online.codec.decision_blocks import decode_decisions
from weir.online.codec.wire import Prediction
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.offline_models.loading import full_inputs, full_models
from weir.streams.offline_models.model_updates import Ref, update_record
from weir.streams.offline_models.serving import FullModels, FullTask
from weir.streams.offline_models.update_follower import BackgroundLoads
from weir.streams.ops.metrics import Metrics


@pytest.fixture(scope="module")
def stored(task: TaskSpec, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Four versions that nobody spoils."""
    models = Models(tmp_path_factory.mktemp("registry"), task, full_inputs(task))
    for _ in range(4):
        models.register()
    return models


class CountedSlots(ModelSlots):
    """Notes the most calls that a swap took: batches wait for it, so it must neither load nor run a model."""

    most = 0

    def swap(self, pair: Pair) -> Pair:
        before: list[Pair] = []
        self.most = max(self.most, calls_of(lambda: before.append(super(CountedSlots, self).swap(pair))))
        return before[0]


def counted(full: FullModels) -> CountedSlots:
    """Put into the place of the one task's own."""
    (task,) = full.tasks
    slots = CountedSlots(task.runner.inputs, task.runner.slots.state)
    task.runner.slots = slots
    return slots


# -- the embedded host -------------------------------------------------------------------------------------------------


def test_an_update_takes_effect_at_its_place_in_the_log(task: TaskSpec, stored: Models) -> None:
    log = EmbeddedLog()
    host = EmbeddedHost([task], log, full=loaded(task, stored), decisions=True)
    log.append(topics.USER_EVENTS, events(0, 6))
    steps = [("shadow", 1), ("promote", 1), ("shadow", 2), ("promote", 2), ("rollback", 1), ("retire", 1)]
    for k, (action, version) in enumerate(steps, start=1):
        log.append(topics.MODEL_UPDATES, [update_record(stored.update(action, version), START + 6 * k)])
        log.append(topics.USER_EVENTS, events(6 * k, 6))
    process_all(host)
    found = predictions(log)
    assert [p.event_id for p in found] == [f"e{i}" for i in range(42)]
    names = ("full.version", "full.shadow_version")
    pairs = [tuple(int(feature(p, name)) for name in names) for p in found]
    assert pairs == [pair for pair in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (1, 0), (0, 0)] for _ in range(6)]
    assert [p.degraded for p in found] == [version == 0 for version, _ in pairs]
    decided = [decode_decisions(r.value) for b in log.read([topics.DECISIONS], 0) for r in b.records]
    assert [d.degraded for block in decided for d in block.batch.rows()] == [p.degraded for p in found]
    assert {feature(p, "full.known") for p in found if p.degraded} == {0.0}
    # A state that is not there yet is made again from the last 3 events; then every event adds one, up to 8.
    for p, (champion, shadow) in zip(found, pairs, strict=True):
        for version, column in ((champion, "full.logit"), (shadow, "full.shadow_logit")):
            count = feature(p, column) - LOGIT * version
            assert (1 <= count <= 8) if version else count == 0
    assert feature(found[-7], "full.logit") == LOGIT + 8


def test_the_same_log_makes_the_same_predictions_and_a_resumed_host_serves_what_served(
    task: TaskSpec, stored: Models, tmp_path: Path
) -> None:
    updates = [stored.update("promote", 1), stored.update("promote", 3)]

    def run(stop: int | None) -> tuple[list[Prediction], tuple[int, int]]:
        folder = tmp_path / f"state-{stop}"
        log = EmbeddedLog(directory=folder / "log")
        host = EmbeddedHost([task], log, checkpoints=folder, full=loaded(task, stored))
        for k in range(4):
            if k == stop:
                host.checkpoint()
                log.close()
                log = EmbeddedLog(directory=folder / "log")
                host = EmbeddedHost([task], log, checkpoints=folder, full=loaded(task, stored))
                assert host.resume()
            if k in (1, 2):
                log.append(topics.MODEL_UPDATES, [update_record(updates[k - 1], START + 6 * k)])
            log.append(topics.USER_EVENTS, events(6 * k, 6))
            process_all(host)
        made = predictions(log)
        log.close()
        return made, serving(host.full)

    assert run(None) == run(3)
    assert run(None)[1] == (3, 1)


def test_a_thousand_swaps_under_load(task: TaskSpec, stored: Models) -> None:
    """Every event is scored once, by the version that serves at its place; no swap holds anything up."""
    log, swaps = EmbeddedLog(), 1_000
    full = loaded(task, stored)
    slots = counted(full)
    host = EmbeddedHost([task], log, full=full)
    serves: list[int] = []
    for k in range(swaps):
        version = 1 + k % 2 if k % 100 else 3 + k // 100 % 2  # now and then one that is not loaded
        log.append(topics.MODEL_UPDATES, [update_record(stored.update("promote", version), START + 4 * k)])
        log.append(topics.USER_EVENTS, events(4 * k, 4))
        serves += [version] * 4
    process_all(host)
    found = predictions(log)
    assert [p.event_id for p in found] == [f"e{i}" for i in range(4 * swaps)]
    assert [int(feature(p, "full.version")) for p in found] == serves
    assert all(LOGIT * v < feature(p, "full.logit") <= LOGIT * v + 8 for p, v in zip(found, serves, strict=True))
    assert not any(p.degraded for p in found)
    assert full.metrics.counter("weir_full_swaps_total", task="spend").value == swaps
    assert 0 < slots.most < 60


# -- lanes of one worker -----------------------------------------------------------------------------------------------


async def test_lanes_score_while_models_load_and_swap(task: TaskSpec, stored: Models) -> None:
    """Four lanes share the models, as in a worker; updates load in threads and swap between their batches."""
    full, done = loaded(task, stored), threading.Event()
    slots, scorer = counted(full), full.scorer("spend")
    assert scorer is not None
    width = len(full_inputs(task))
    seen: list[list[tuple[int, int, float]]] = [[] for _ in range(4)]

    async def lane(at: int) -> None:
        store = MemoryFeatureStore()
        assert task.full is not None
        store.create("spend.full", scorer.row_bytes, scorer.schema, task.full.ttl)
        while not done.is_set():
            keys, before = [f"u{k % 3}" for k in range(5)], serving(full)
            made = scorer.score("spend.full", store, keys, np.full(5, START), np.ones((5, width)))
            versions = {(int(a), int(b)) for a, b in zip(made[:, -4], made[:, -1], strict=True)}
            assert versions == {before}
            seen[at] += [(before[0], before[1], float(logit)) for logit in made[:, 0]]
            await asyncio.sleep(0)

    async def swaps() -> None:
        loads = BackgroundLoads(full)
        for k in range(1_000):
            full.want([stored.update("promote", 1 + k % 2 if k % 50 else 3 + k // 50 % 2)])
            loads.begin()
            await asyncio.sleep(0)
            if k % 50 < 3:  # what is not loaded; the others swap at once
                await loads.settle(30.0)
        done.set()
        await loads.stop()

    await asyncio.gather(*(lane(at) for at in range(4)), swaps())
    served = {champion for rows in seen for champion, _, _ in rows}
    assert served == {0, 1, 2, 3, 4}
    assert all(len(rows) > 3_000 for rows in seen)
    for champion, _, logit in (row for rows in seen for row in rows):
        assert logit == 0 if champion == 0 else LOGIT * champion < logit <= LOGIT * champion + 8
    assert full.metrics.counter("weir_full_swaps_total", task="spend").value > 900
    assert 0 < slots.most < 60


class Slow:
    """Loads when told to."""

    def __init__(self, load: Callable[[Ref], StepModel]) -> None:
        self._load, self.gates = load, {version: threading.Event() for version in range(1, 5)}

    def __call__(self, ref: Ref) -> StepModel:
        self.gates[ref.version].wait(30.0)
        return self._load(ref)


@pytest.fixture
def slow(task: TaskSpec, stored: Models) -> Iterator[tuple[FullModels, Slow]]:
    (inner,) = loaded(task, stored).tasks
    gated = Slow(inner.load)
    yield FullModels([FullTask("spend", inner.runner, gated)]), gated
    for gate in gated.gates.values():
        gate.set()


async def test_a_newer_update_overtakes_a_slower_load(stored: Models, slow: tuple[FullModels, Slow]) -> None:
    full, gated = slow

    loads, seen = BackgroundLoads(full), []
    full.want([stored.update("promote", 1)])
    loads.begin()
    full.want([stored.update("retire", 1), stored.update("promote", 2)])
    loads.begin()
    gated.gates[2].set()
    async with asyncio.timeout(30.0):
        while serving(full) != (2, 0):
            await asyncio.sleep(0.001)
    seen.append(serving(full))
    gated.gates[1].set()
    await loads.settle(30.0)
    assert [*seen, serving(full)] == [(2, 0), (2, 0)]


async def test_scoring_begins_where_loading_takes_too_long(
    stored: Models, slow: tuple[FullModels, Slow], caplog: pytest.LogCaptureFixture
) -> None:
    full, gated = slow

    loads = BackgroundLoads(full)
    full.want([stored.update("promote", 1)])
    loads.begin()
    await loads.settle(0.01)
    assert serving(full) == (0, 0)
    gated.gates[1].set()
    await loads.settle(30.0)
    assert "spend version 1 not loaded within 0.01 s; scoring begins" in caplog.text
    assert serving(full) == (1, 0)


# -- where models lie --------------------------------------------------------------------------------------------------


def test_a_registry_may_be_moved_or_mounted_elsewhere(task: TaskSpec, own: Models, tmp_path: Path) -> None:
    update = own.update("promote", 1)
    assert update.uri == "spend/1"
    own.registry.url = str(Path(own.registry.url).rename(tmp_path / "elsewhere"))
    full = loaded(task, own)
    full.apply_now([update])
    assert serving(full) == (1, 0)


def test_an_old_update_that_says_the_whole_address_serves_from_a_registry_that_is_trusted(
    task: TaskSpec, own: Models, tmp_path: Path
) -> None:
    above = str(Path(own.registry.url).parent)
    for k, whole in enumerate((own.registry.uri("spend", 1), f"{own.registry.url}/spend/1")):
        empty = str(tmp_path / f"empty{k}")
        for registry, trusted in ((own.registry.url, ()), (empty, (own.registry.url,)), (empty, (above,))):
            full = full_models([task], ModelSettings(provider="cpu", registry=registry, trusted=trusted), Metrics())
            full.apply_now([own.update("promote", 1).model_copy(update={"uri": whole})])
            assert serving(full) == (1, 0)
