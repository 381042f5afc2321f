"""Full models as they are loaded, refused and swapped in one process."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from models.inference import ModelSlots, Pair
from models.inference.session import Provider
from models.types import ModelError, StepModel
from online.full import columns
from online.task import TaskSpec
from online.wire import ModelUpdate, Prediction
from streams import topics
from streams.full.loading import full_inputs, full_models
from streams.full.loads import BackgroundLoads
from streams.full.serving import FullModels, FullTask
from streams.full.updates import Ref, update_record
from streams.host import EmbeddedHost
from streams.log import EmbeddedLog, Record
from streams.ops.metrics import Metrics
from streams.stores import MemoryFeatureStore
from streams.taskfiles import load_task
from tests.streams.full_graphs import LOGIT, TASK, Models

START = 1.7e9


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    path = tmp_path_factory.mktemp("task") / "spend.toml"
    path.write_text(TASK)
    return load_task(path)


@pytest.fixture(scope="module")
def stored(task: TaskSpec, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Four versions that nobody spoils."""
    models = Models(tmp_path_factory.mktemp("registry"), task, full_inputs(task))
    for _ in range(4):
        models.register()
    return models


@pytest.fixture
def own(task: TaskSpec, tmp_path: Path) -> Models:
    """A registry of the test's own with one good version."""
    models = Models(tmp_path / "registry", task, full_inputs(task))
    models.register()
    return models


def loaded(task: TaskSpec, own: Models, provider: Provider = "cpu") -> FullModels:
    return full_models([task], provider, metrics=Metrics(), registry=own.registry.url)


class TimedSlots(ModelSlots):
    """Notes the longest that a swap took: batches wait for it, so it is in seconds of the thread that scores."""

    longest_s = 0.0

    def swap(self, pair: Pair) -> Pair:
        began = time.thread_time()
        before = super().swap(pair)
        self.longest_s = max(self.longest_s, time.thread_time() - began)
        return before


def timed(full: FullModels) -> TimedSlots:
    """Put into the place of the one task's own."""
    (task,) = full.tasks
    slots = TimedSlots(task.runner.inputs, task.runner.slots.state)
    task.runner.slots = slots
    return slots


def event(i: int, user: int = 0) -> bytes:
    return orjson.dumps({
        "v": 1, "event_id": f"e{i}", "type": "purchase", "user_id": f"u{user}", "ts": START + i, "amount": 10.0 + i % 7
    })  # fmt: skip


def events(first: int, count: int) -> list[Record]:
    return [Record(b"k", event(i, i % 3), START + i) for i in range(first, first + count)]


def predictions(log: EmbeddedLog) -> list[Prediction]:
    return [Prediction.model_validate_json(r.value) for b in log.read([topics.PREDICTIONS], 0) for r in b.records]


def feature(prediction: Prediction, name: str) -> float:
    return float(prediction.features[name])


# -- the embedded host -------------------------------------------------------------------------------------------------


def test_an_update_takes_effect_at_its_place_in_the_log(task: TaskSpec, stored: Models) -> None:
    log = EmbeddedLog()
    host = EmbeddedHost([task], log, full=loaded(task, stored))
    log.append(topics.USER_EVENTS, events(0, 6))
    steps = [("shadow", 1), ("promote", 1), ("shadow", 2), ("promote", 2), ("rollback", 1), ("retire", 1)]
    for k, (action, version) in enumerate(steps, start=1):
        log.append(topics.MODEL_UPDATES, [update_record(stored.update(action, version), START + 6 * k)])
        log.append(topics.USER_EVENTS, events(6 * k, 6))
    host.run_pending()
    found = predictions(log)
    assert [p.event_id for p in found] == [f"e{i}" for i in range(42)]
    names = ("full.version", "full.shadow_version")
    pairs = [tuple(int(feature(p, name)) for name in names) for p in found]
    assert pairs == [pair for pair in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (1, 0), (0, 0)] for _ in range(6)]
    assert [p.degraded for p in found] == [version == 0 for version, _ in pairs]
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
            host.run_pending()
        made = predictions(log)
        log.close()
        return made, host.full.versions("spend")

    assert run(None) == run(3)
    assert run(None)[1] == (3, 1)


def test_a_thousand_swaps_under_load(task: TaskSpec, stored: Models) -> None:
    """Every event is scored once, by the version that serves at its place; no swap holds anything up."""
    log, swaps = EmbeddedLog(), 1_000
    full = loaded(task, stored)
    slots = timed(full)
    host = EmbeddedHost([task], log, full=full)
    serves: list[int] = []
    for k in range(swaps):
        version = 1 + k % 2 if k % 100 else 3 + k // 100 % 2  # now and then one that is not loaded
        log.append(topics.MODEL_UPDATES, [update_record(stored.update("promote", version), START + 4 * k)])
        log.append(topics.USER_EVENTS, events(4 * k, 4))
        serves += [version] * 4
    host.run_pending()
    found = predictions(log)
    assert [p.event_id for p in found] == [f"e{i}" for i in range(4 * swaps)]
    assert [int(feature(p, "full.version")) for p in found] == serves
    assert all(LOGIT * v < feature(p, "full.logit") <= LOGIT * v + 8 for p, v in zip(found, serves, strict=True))
    assert not any(p.degraded for p in found)
    assert full.metrics.counter("weir_full_swaps_total", task="spend").value == swaps
    assert 0.0 < slots.longest_s < 0.05


# -- lanes of one worker -----------------------------------------------------------------------------------------------


def test_lanes_score_while_models_load_and_swap(task: TaskSpec, stored: Models) -> None:
    """Four lanes share the models, as in a worker; updates load in threads and swap between their batches."""
    full, done = loaded(task, stored), threading.Event()
    slots, scorer = timed(full), full.scorer("spend")
    assert scorer is not None
    width = len(full_inputs(task))
    seen: list[list[tuple[int, int, float]]] = [[] for _ in range(4)]

    async def lane(at: int) -> None:
        store = MemoryFeatureStore()
        assert task.full is not None
        store.create("spend.full", scorer.row_bytes, scorer.schema, task.full.ttl)
        while not done.is_set():
            keys, before = [f"u{k % 3}" for k in range(5)], full.versions("spend")
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

    async def run() -> None:
        await asyncio.gather(*(lane(at) for at in range(4)), swaps())

    asyncio.run(run())
    served = {champion for rows in seen for champion, _, _ in rows}
    assert served == {0, 1, 2, 3, 4}
    assert all(len(rows) > 3_000 for rows in seen)
    for champion, _, logit in (row for rows in seen for row in rows):
        assert logit == 0 if champion == 0 else LOGIT * champion < logit <= LOGIT * champion + 8
    assert full.metrics.counter("weir_full_swaps_total", task="spend").value > 900
    assert 0.0 < slots.longest_s < 0.05


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


def test_a_newer_update_overtakes_a_slower_load(stored: Models, slow: tuple[FullModels, Slow]) -> None:
    full, gated = slow

    async def run() -> list[tuple[int, int]]:
        loads, seen = BackgroundLoads(full), []
        full.want([stored.update("promote", 1)])
        loads.begin()
        full.want([stored.update("retire", 1), stored.update("promote", 2)])
        loads.begin()
        gated.gates[2].set()
        async with asyncio.timeout(30.0):
            while full.versions("spend") != (2, 0):
                await asyncio.sleep(0.001)
        seen.append(full.versions("spend"))
        gated.gates[1].set()
        await loads.settle(30.0)
        return [*seen, full.versions("spend")]

    assert asyncio.run(run()) == [(2, 0), (2, 0)]


def test_scoring_begins_where_loading_takes_too_long(
    stored: Models, slow: tuple[FullModels, Slow], caplog: pytest.LogCaptureFixture
) -> None:
    full, gated = slow

    async def run() -> None:
        loads = BackgroundLoads(full)
        full.want([stored.update("promote", 1)])
        loads.begin()
        await loads.settle(0.01)
        assert full.versions("spend") == (0, 0)
        gated.gates[1].set()
        await loads.settle(30.0)

    asyncio.run(run())
    assert "spend version 1 not loaded within 0.01 s; scoring begins" in caplog.text
    assert full.versions("spend") == (1, 0)


# -- where models lie --------------------------------------------------------------------------------------------------


def test_a_registry_may_be_moved_or_mounted_elsewhere(task: TaskSpec, own: Models, tmp_path: Path) -> None:
    update = own.update("promote", 1)
    assert update.uri == "spend/1"
    own.registry.url = str(Path(own.registry.url).rename(tmp_path / "elsewhere"))
    full = loaded(task, own)
    full.apply_now([update])
    assert full.versions("spend") == (1, 0)


def test_an_old_update_that_says_the_whole_address_is_taken_at_its_word(
    task: TaskSpec, own: Models, tmp_path: Path
) -> None:
    for k, whole in enumerate((own.registry.uri("spend", 1), f"{own.registry.url}/spend/1")):
        full = full_models([task], "cpu", metrics=Metrics(), registry=str(tmp_path / f"empty{k}"))
        full.apply_now([own.update("promote", 1).model_copy(update={"uri": whole})])
        assert full.versions("spend") == (1, 0)


# -- what is refused ---------------------------------------------------------------------------------------------------


def corrupt(models: Models, version: int) -> ModelUpdate:
    path = models.folder(version) / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    return models.update("promote", version)


def truncated(models: Models, version: int) -> ModelUpdate:
    path = models.folder(version) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-20])
    return models.update("promote", version)


def wrong_digest(models: Models, version: int) -> ModelUpdate:
    return models.update("promote", version, digest="sha256:" + "ab" * 32)


def missing(models: Models, version: int) -> ModelUpdate:
    update = models.update("promote", version)
    shutil.rmtree(models.folder(version))
    return update


def lost_file(models: Models, version: int) -> ModelUpdate:
    (models.folder(version) / "model.onnx").unlink()
    return models.update("promote", version)


def edited_manifest(models: Models, version: int) -> ModelUpdate:
    update, path = models.update("promote", version), models.folder(version) / "manifest.json"
    path.write_text(path.read_text().replace('"trees"', '"treez"'))
    return update


def elsewhere(models: Models, version: int) -> ModelUpdate:
    return models.update("promote", version).model_copy(update={"uri": "other/2"})


def other_inputs(models: Models, version: int) -> ModelUpdate:
    del version
    return models.update("promote", models.register(extra=("a.column.of.another.task",)))


def large_state(models: Models, version: int) -> ModelUpdate:
    del version
    return models.update("promote", models.register(state=9))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (corrupt, "model.onnx is corrupt or exchanged"),
        (truncated, "model.onnx is truncated"),
        (wrong_digest, "its digest is sha256:"),
        (missing, "no such version"),
        (lost_file, "model.onnx is missing"),
        (edited_manifest, "digest"),
        (elsewhere, "ends in spend/2; correct uri"),
        (other_inputs, "a.column.of.another.task"),
        (large_state, "set [full] state = 9"),
    ],
)
def test_a_bad_artefact_is_refused_and_the_old_model_goes_on(
    task: TaskSpec,
    own: Models,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Models, int], ModelUpdate],
    says: str,
) -> None:
    log, full = EmbeddedLog(), loaded(task, own)
    host = EmbeddedHost([task], log, full=full)
    first = own.update("promote", 1)
    bad = spoil(own, own.register())
    for k, update in enumerate((first, bad)):
        log.append(topics.MODEL_UPDATES, [update_record(update, START + 3 * k)])
        log.append(topics.USER_EVENTS, events(3 * k, 3))
    host.run_pending()
    assert [int(feature(p, "full.version")) for p in predictions(log)] == [1] * 6
    assert [feature(p, "full.logit") for p in predictions(log)] == [LOGIT + 1] * 3 + [LOGIT + 2] * 3
    refusal = next(record for record in caplog.records if record.levelname == "ERROR")
    assert f"task spend: full model version {bad.version} is refused, version 1 goes on" in refusal.message
    assert says in refusal.message
    told = full.describe()["spend"]
    assert isinstance(told, dict)
    assert (told["champion"], told["wanted"]) == (1, int(bad.version))
    assert says in told["refused"][bad.version]
    assert full.metrics.counter("weir_full_refused_total", task="spend").value == 1
    # What follows is as if it had never been there.
    full.apply_now([own.update("rollback", 1)])
    assert full.versions("spend") == (1, 0)


def test_what_was_mended_serves_after_a_while_and_not_before(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own)
    path = own.folder(1) / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    full.apply_now([own.update("promote", 1)])
    path.write_bytes(data)
    full.retry(after_s=60.0)
    assert full.missing() == []
    full.retry(after_s=0.0)
    full.resume([])
    assert full.versions("spend") == (1, 0)


def test_a_bad_shadow_leaves_the_champion_alone_and_a_good_one_may_follow(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own)
    full.apply_now(
        [own.update("promote", 1), wrong_digest(own, own.register()).model_copy(update={"action": "shadow"})]
    )
    assert full.versions("spend") == (1, 0)
    full.apply_now([own.update("shadow", own.register())])
    assert full.versions("spend") == (1, 3)


def test_a_provider_that_is_not_there_is_an_error(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own, "cuda")
    (only,) = full.tasks
    with pytest.raises(ModelError, match="cuda"):
        only.load(Ref(1, own.registry.uri("spend", 1), own.registry.manifest("spend", 1).digest))


def test_a_task_without_a_full_model_has_none(task: TaskSpec) -> None:
    plain = task.model_copy(update={"full": None})
    assert full_models([plain], registry="").scorer("spend") is None
    assert full_inputs(plain) == ()
    assert task.full is not None
    remote = task.model_copy(update={"full": task.full.model_copy(update={"remote": True})})
    assert full_models([remote], registry="").scorer("spend") is None
    assert full_models([remote, plain], registry="", remote=True).scorer("spend") is not None


def test_rows_without_a_model_are_counted(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own)
    scorer, store = full.scorer("spend"), MemoryFeatureStore()
    assert scorer is not None
    assert task.full is not None
    store.create("spend.full", scorer.row_bytes, scorer.schema, 60.0)
    made = scorer.score("spend.full", store, ["a", "b"], np.full(2, START), np.ones((2, len(full_inputs(task)))))
    assert made.shape == (2, len(columns(task.full)))
    assert full.metrics.counter("weir_degraded_total", task="spend").value == 2
    assert full.metrics.histogram("weir_full_seconds", task="spend").counts.count(1) == 1
