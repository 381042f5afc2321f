"""Several processes under ``torchrun``: the same model, stopped when asked, and their failure told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.models.training_data import small
from weir.models.errors import ModelError
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import TrainingStoppedError

pytestmark = pytest.mark.integration
torch.set_num_threads(1)
TINY = EncoderSettings(
    hidden=4, length=32, warmup=3, batch=8, epochs=1, dropout=0.0, buckets=8, negatives=2, device="cpu"
)


def test_torchrun_stops_when_asked_and_goes_on_to_what_one_process_learns(tmp_path: Path) -> None:
    data, steps = small(300), list[tuple[str, int, int]]()
    pair = EncoderBuilder(TINY, processes=2)
    with pytest.raises(TrainingStoppedError):
        pair.build(data, tmp_path / "two", 1, stop=lambda: True)
    two = pair.build(data, tmp_path / "two", 1, progress=lambda *step: steps.append(step))
    one = EncoderBuilder(TINY).build(data, tmp_path / "one", 1)
    here, there = (load(built.files["weights.safetensors"]) for built in (one, two))
    assert all(torch.allclose(here[name], there[name], atol=1e-4) for name in here)
    assert two.metrics["valid_average_precision"] == pytest.approx(one.metrics["valid_average_precision"], abs=1e-3)
    assert steps[-1][0] == "fine-tune"
    assert steps[-1][1] == steps[-1][2]


def test_a_failure_is_told_in_the_words_of_the_process(tmp_path: Path) -> None:
    data = replace(small(300), valid_from=0.0)
    with pytest.raises(ModelError, match="lengthen window"):
        EncoderBuilder(TINY, processes=2).build(data, tmp_path, 1)
