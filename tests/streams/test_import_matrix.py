"""Each kept model of seven libraries through the gate and into what serves: it says what its library said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.imported_models import FEATURES, NAMES, kept
from weir.models.registry.registry import Registry
from weir.models.types import History, Labels, TrainingSet
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import ModelSettings
from weir.streams.offline_models.loading import full_models, load
from weir.streams.offline_models.model_updates import Ref
from weir.streams.trainer.job.foreign_candidate import fit_model, import_model

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
country_code = "0 if country == 'DE' else 1 if country == 'FR' else 2 if country == 'NL' else 3"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["ewmean"] }]
[model]
kind = "logistic"
[full]
state = 0
inputs = ["hour"]
[full.training]
candidates = []
""")


def logged(_: TaskSpec, cutoff: float) -> TrainingSet:
    """Rows as ``make_models.py`` draws them, half of them to validate on."""
    rng, n = np.random.default_rng(9), 1_500
    x = np.column_stack([rng.lognormal(3, 1, n), rng.normal(size=n), rng.integers(0, 24, n), rng.integers(0, 4, n)])
    y = rng.random(n) < 1 / (1 + np.exp(1 - 0.02 * x[:, 0] - x[:, 1] + 0.05 * x[:, 2] - (x[:, 3] == 1)))
    x = x.astype(np.float32)
    x[rng.random(n) < 0.1, 1] = -0.0  # as a missing value is logged
    each, ts = np.arange(n), np.arange(n, dtype=np.float64)
    history = History(
        FEATURES, [f"e{i}" for i in range(n)], each, ts, x, np.zeros(n), np.zeros(n, np.int64), ("purchase",),
        x[:, 0].astype(np.float64), np.full(n, -1),
    )  # fmt: skip
    return TrainingSet(history, Labels(each, y, np.ones(n), ts + 1), cutoff, n / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_another_library_passes_the_gate_and_is_served_as_it_was(name: str, tmp_path: Path) -> None:
    held, registry = kept(name), Registry(f"memory://{tmp_path.name}")
    fitted = fit_model(held.onnx, held.map, held.text, TASK)
    done = import_model(TASK, fitted, f"{name}.onnx", logged, registry, 2e9, lambda *_: None)
    assert done.version == 1, done.judged.verdict.reason
    registry.set_stage("fraud", 1, "shadow", at=2e9)
    settings = ModelSettings(registry=registry.url, provider="cpu")
    runner = full_models([TASK], settings).tasks[0].runner
    model = load("fraud", Ref(1, "fraud/1", registry.manifest("fraud", 1).digest), runner, settings)
    logit = model.step(held.x, np.empty((len(held.x), 0), np.float32))[0].astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), held.expected, atol=2e-6)
