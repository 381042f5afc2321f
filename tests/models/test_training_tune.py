"""The search over settings: it starts from the defaults, goes on where it was left, and is never worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.training_data import small
from weir.models.errors import ModelError
from weir.models.training.search import VARIED, TrialResult, Tuner
from weir.models.training.training_settings import EncoderSettings

torch.set_num_threads(1)
BASE = EncoderSettings(hidden=3, length=32, warmup=3, batch=16, epochs=1, pretrain_epochs=0, buckets=8, negatives=2)


def silent(what: str, done: int, of: int) -> None: ...


def test_a_search_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    data, study = small(200), tmp_path / "s.journal"
    seen: list[TrialResult] = []
    steps = 0

    def broken(what: str, done: int, of: int) -> None:
        nonlocal steps
        steps += 1
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tuner([data], BASE, study, 1).run(3, broken, seen.append)
    best = Tuner([data], BASE, study, 1).run(3, silent, seen.append)
    assert [t.state in ("complete", "pruned") for t in seen] == [True] * 3
    assert seen[0].settings == {name: getattr(BASE, name) for name in VARIED}
    assert seen[1].number == 2  # trial 1 was broken off, and its settings were run again
    assert best.value == max(t.value or 0 for t in seen if t.state == "complete")
    again = Tuner([data], BASE, study, 1).run(3, lambda *_: pytest.fail("it trained again"), seen.append)
    assert again == best
    assert not list((tmp_path / "s.journal.work").iterdir())
    with pytest.raises(ModelError, match="other data or settings"):
        Tuner([small(200, seed=9)], EncoderSettings(hidden=4), study, 1).run(3, silent, seen.append)
