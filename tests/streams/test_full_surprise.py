"""``full.surprise`` in predictions: swaps to a model that tells it and away, a host that resumes, each precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.streams.full_events import START, events, feature, predictions
from tests.streams.full_graphs import DATA, TASK, Models
from tests.streams.host_runs import process_all
from weir.models.encoder import Encoder, EncoderConfig
from weir.models.evaluation.quantise import FLOAT16, INT8, variants
from weir.models.manifest import Precision, Variant
from weir.models.onnx.export import export_encoder
from weir.models.training.training_run import fit
from weir.models.types import Built
from weir.online.codec.wire import Prediction
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.offline_models.loading import full_inputs, full_models
from weir.streams.offline_models.model_updates import update_record

SURPRISED = TASK.replace("state = 4", 'state = 5\nsurprise = ["amount"]\nsurprise_events = 2')


@pytest.fixture
def task() -> TaskSpec:
    return TaskSpec.from_toml(SURPRISED)


@pytest.fixture
def told(own: Models, task: TaskSpec) -> int:
    """A version with a surprise, beside version 1, which was made before there were any."""
    return register_surprise(own, full_inputs(task))


def register_surprise(own: Models, inputs: tuple[str, ...]) -> int:
    """A further version, of an encoder that was not trained."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = Encoder(EncoderConfig(inputs, 4, 0, 0, predicts=("amount",), surprise_events=2))
    fit(encoder.normalise, np.random.default_rng(0).uniform(10, 17, (99, len(inputs))).astype(np.float32))
    assert encoder.surprise is not None
    encoder.surprise.calibrate(np.linspace(-0.6, 1.5, 200))
    onnx = export_encoder(encoder)
    made = variants(onnx)
    said = {FLOAT16: Variant(precision="float16"), INT8: Variant(precision="int8")}
    built = Built("encoder", onnx, inputs, 5, files=made, variants=said)
    version = own.registry.register(own.task, built, data=DATA, created_at=1.0).version
    own.registry.set_stage(own.task, version, "shadow", at=1.0)
    return version


def run(
    task: TaskSpec, own: Models, told: int, folder: Path, stop: int | None = None, precision: Precision = "float32"
) -> list[Prediction]:
    """Version 1, from the second six events on the one with a surprise, from the fourth on version 1 again."""
    settings = ModelSettings(provider="cpu", registry=own.registry.url, precision=precision)
    log = EmbeddedLog(directory=folder / "log")
    host = EmbeddedHost([task], log, checkpoints=folder, full=full_models([task], settings))
    updates = {0: own.update("promote", 1), 1: own.update("promote", told), 3: own.update("promote", 1)}
    for k in range(4):
        if k == stop:
            host.checkpoint()
            log.close()
            log = EmbeddedLog(directory=folder / "log")
            host = EmbeddedHost([task], log, checkpoints=folder, full=full_models([task], settings))
            assert host.resume()
        if k in updates:
            log.append(topics.MODEL_UPDATES, [update_record(updates[k], START + 6 * k)])
        log.append(topics.USER_EVENTS, events(6 * k, 6))
        process_all(host)
    made = predictions(log)
    log.close()
    return made


def test_it_is_there_while_a_model_tells_it_and_missing_elsewhere(
    task: TaskSpec, own: Models, told: int, tmp_path: Path
) -> None:
    made = run(task, own, told, tmp_path / "whole")
    assert [int(feature(p, "full.version")) for p in made] == [1] * 6 + [told] * 12 + [1] * 6
    said = np.array([feature(p, "full.surprise") for p in made])
    assert np.signbit(said).tolist() == [True] * 6 + [False] * 12 + [True] * 6
    assert len(set(said[6:18])) > 6
    assert ((said >= 0) & (said <= 1)).all()
    assert not any(p.degraded for p in made)
    assert run(task, own, told, tmp_path / "resumed", stop=2) == made, "bit for bit"


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_precisions_tell_it_nearly_the_same(
    task: TaskSpec, own: Models, told: int, tmp_path: Path, precision: Precision
) -> None:
    whole, other = (run(task, own, told, tmp_path / p, precision=p) for p in ("float32", precision))
    gaps = [abs(feature(a, "full.surprise") - feature(b, "full.surprise")) for a, b in zip(whole, other, strict=True)]
    assert 0 < max(gaps) < 0.1
