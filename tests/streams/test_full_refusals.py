"""Full models that cannot be served: each is refused with its reason, and what served before goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.streams.full_events import START, events, feature, loaded, predictions, serving
from tests.streams.full_graphs import LOGIT, Models
from tests.streams.host_runs import process_all
from weir.models.errors import ModelError
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate
from weir.online.task.full_spec import columns
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.offline_models.loading import full_inputs, full_models
from weir.streams.offline_models.model_updates import Ref, decode_updates, update_record


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
    process_all(host)
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
    assert serving(full) == (1, 0)


@pytest.mark.parametrize("place", ["{forged}", "file://{forged}", "{own}/../forged", "{own}/./../forged", "{own}-x"])
def test_an_update_cannot_name_a_registry_of_its_own(
    task: TaskSpec, own: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """A model of somebody else's, with its own digest in the record: all that a writer of ``model-updates`` has."""
    forged = Models(tmp_path / "forged", task, own.inputs)
    shutil.copytree(forged.folder(forged.register()).parent, Path(own.registry.url + "-x") / "spend")
    where = place.format(forged=tmp_path / "forged", own=own.registry.url)
    full = loaded(task, own)
    update = forged.update("promote", 1).model_copy(update={"uri": f"{where}/spend/1", "created_at": 1.8e9})
    full.apply_now([own.update("promote", 1), update])
    assert serving(full) == (1, 0)
    assert list(full.describe()["spend"]["refused"]) == ["1"]  # type: ignore[call-overload] # a mapping of plain values
    assert full.outline() == {"spend": {**full.describe()["spend"], "refused": [1]}}, "who asks /ready sees no place"
    assert f"its registry {where} is not {own.registry.url}" in caplog.text


def test_a_candidate_that_no_stage_was_given_serves_nobody(
    task: TaskSpec, own: Models, caplog: pytest.LogCaptureFixture
) -> None:
    """Its digest is right, and a gate has refused it: the registry's own log decides."""
    made = own.register(stage=False)
    full = loaded(task, own)
    full.apply_now([own.update("promote", 1), own.update("promote", made)])
    assert serving(full) == (1, 0)
    assert f"weir models promote spend {made}" in caplog.text


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "\u0663", "1" * 10, "9" * 200, "1/../2"])
def test_a_version_is_a_small_whole_number(own: Models, version: str) -> None:
    decoded = decode_updates([encode_model(own.update("promote", 1).model_copy(update={"version": version}))])
    assert (decoded.updates, len(decoded.rejects)) == ([], 1)


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
    assert serving(full) == (1, 0)


def test_a_bad_shadow_leaves_the_champion_alone_and_a_good_one_may_follow(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own)
    full.apply_now(
        [own.update("promote", 1), wrong_digest(own, own.register()).model_copy(update={"action": "shadow"})]
    )
    assert serving(full) == (1, 0)
    full.apply_now([own.update("shadow", own.register())])
    assert serving(full) == (1, 3)


def test_a_provider_that_is_not_there_is_an_error(task: TaskSpec, own: Models) -> None:
    full = loaded(task, own, "cuda")
    (only,) = full.tasks
    with pytest.raises(ModelError, match="cuda"):
        only.load(Ref(1, own.registry.uri("spend", 1), own.registry.manifest("spend", 1).digest))


def test_a_task_without_a_full_model_has_none(task: TaskSpec) -> None:
    plain = task.model_copy(update={"full": None})
    assert full_models([plain], ModelSettings()).scorer("spend") is None
    assert full_inputs(plain) == ()
    assert task.full is not None
    remote = task.model_copy(update={"full": task.full.model_copy(update={"remote": True})})
    assert full_models([remote], ModelSettings()).scorer("spend") is None
    assert full_models([remote, plain], ModelSettings(), remote=True).scorer("spend") is not None


def test_a_model_that_fails_is_told_once_and_counted(
    task: TaskSpec, own: Models, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, log = loaded(task, own), EmbeddedLog()
    host = EmbeddedHost([task], log, full=full)
    full.apply_now([own.update("promote", 1)])
    model = full.tasks[0].runner.slots.pair.champion
    assert model is not None

    def away(*_: object) -> Any:
        raise ModelError("the device went away")

    monkeypatch.setattr(model, "step", away)
    for first in (0, 6):
        log.append(topics.USER_EVENTS, events(first, 6))
        process_all(host)
    told = [r.getMessage() for r in caplog.records if "went away" in r.getMessage()]
    assert told == ["task spend: the full model fails, scores are made without it: the device went away"]
    assert full.metrics.counter("weir_full_failed_total", task="spend").value == 3, "and the states' rebuilding"
    assert full.metrics.counter("weir_degraded_total", task="spend").value == 12


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
