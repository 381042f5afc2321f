"""Trains encoder candidates: the ``Builder`` of kind ``encoder``. Importing it imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from weir.models.errors import ModelError
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import Built, Progress, TrainingSet

WEIGHTS, CONFIG = "weights.safetensors", "encoder.json"


def silent(what: str, done: int, of: int) -> None:
    """Tell nobody; a ``Progress``."""


@dataclass
class EncoderBuilder:
    """Pre-trains on the whole history, then fine-tunes on labels; with a warm start it only fine-tunes, shortly.

    Under ``torchrun`` every process calls ``build`` with the same arguments and gets the same result; ``work`` must be
    a folder that all of them see.
    """

    settings: EncoderSettings = field(default_factory=EncoderSettings)
    processes: int = 1
    """How many train together on this machine, such as one a GPU; more than one are started by ``torchrun``."""
    kind: str = "encoder"

    def build(
        self,
        data: TrainingSet,
        work: Path,
        seed: int,
        *,
        warm_start: Mapping[str, bytes] | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Built:
        """Train on ``data``; see ``weir.models.types.Builder``.

        A warm start of other inputs or another shape is not used; ``metrics["warm_start"]`` then is 0.

        Raises
        ------
        ModelError
            No torch, no labelled event to learn from, a damaged checkpoint or warm start, a device that is not there,
            or fewer GPUs than processes.
        TrainingStoppedError
            ``stop`` said so; the same call goes on from the checkpoint.
        """
        # Not by importing it: with several processes this one never needs it.
        if find_spec("torch") is None:
            raise ModelError("the encoder needs torch, which is not installed: pip install 'weir[train]'")
        if self.processes > 1 and "RANK" not in os.environ:
            from weir.models.training.ddp import launch

            return launch(self.processes, data, work, self.settings, seed, warm_start, progress or silent, stop)
        from weir.models.training.training_run import train

        return train(self.settings, data, work, seed, warm_start, progress or silent, stop)
