"""How an encoder is trained. Knows no data and imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from weir.models.errors import ModelError


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Settings of ``EncoderBuilder``; the defaults were chosen on the fraud handbook's validation weeks."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    hidden: int = 64
    """H, which is also the state S a task must grant."""
    embedding: int = 0
    """Coordinates of the entity's embedding that it tells; the task's ``embedding``."""
    surprise: tuple[str, ...] = ()
    """Inputs, names or globs, whose next values are foretold; the task's ``surprise``."""
    surprise_events: int = 8
    """Events that the surprise is a running mean over; the task's ``surprise_events``."""
    surprise_epochs: int = 2
    """Epochs at the end that fit what is foretold, and that alone, to what fine-tuning left."""
    knots: int = 0
    """Pieces of a piecewise linear encoding that each input has beside itself; 0 for none."""
    dropout: float = 0.1
    """Share of units that are dropped in training."""

    length: int = 64
    """Events of a chunk whose loss counts; gradients go no further back than the chunk and its warm-up."""
    warmup: int = 16
    """Events before a chunk that only bring up the state; a serving state is rebuilt from as few after a swap."""
    batch: int = 64
    """Chunks of one step, over all processes together."""

    pretrain_epochs: int = 1
    """Epochs of pre-training over the whole history, without labels; 0 for none."""
    head_epochs: int = 1
    """Epochs that train the task's head alone, with the encoder frozen, before all is trained."""
    epochs: int = 6
    """Epochs that train the whole network, at most."""
    patience: int = 2
    """Epochs without a better validation before training ends."""
    warm_epochs: int = 2
    """Epochs of a warm start, which begins with the serving artefact and has none of the phases above."""
    warm_days: float = 56.0
    """Days before the newest label from which on a warm start learns labels."""

    pretrain_rate: float = 2e-3
    """Highest learning rate of pre-training."""
    rate: float = 3e-3
    """Highest learning rate of a phase; it rises over the first tenth and falls along a cosine."""
    warm_rate: float = 6e-4
    """Highest learning rate of a warm start."""
    weight_decay: float = 1e-2
    """Of AdamW, on all weights."""
    gradient_norm: float = 1.0
    """Gradients are scaled down to this norm at most."""
    next_weight: float = 0.01
    """Lambda of ``L = lambda * L_next + L_task`` while fine-tuning."""
    event_dropout: float = 0.0
    """Share of events left out of a chunk, anew each time."""
    time_jitter: float = 0.0
    """Standard deviation of the logarithm of the factor that columns of times are multiplied by."""
    time_columns: tuple[str, ...] = ("since", "age", "gap")
    """A column is a time when its name holds one of these."""
    buckets: int = 4096
    """Hash buckets of the next event's item."""
    negatives: int = 64
    """Other items the next one is told from, drawn by how frequent they are."""

    metric: Literal["average_precision", "roc_auc"] = "average_precision"
    """The validation metric that ends the training and chooses the weights that are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is trained; ``auto`` takes CUDA where there is one."""
    checkpoint_steps: int = 200
    """Steps from checkpoint to checkpoint."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> EncoderSettings:
        """Settings from a document; raises ``ModelError`` naming each that is unknown or has another type.

        A task file's ``epochs = 8`` arrives as 8.0, because its table takes numbers of any kind; here it is 8 again.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(given))
        except ValidationError as error:
            wrong = (f"{e['loc'][0]} = {given[str(e['loc'][0])]!r}: {e['msg']}" for e in error.errors())
            raise ModelError(
                f"[full.training] encoder: {'; '.join(wrong)}; models/training/training_settings.py lists the settings"
            ) from None

    def __post_init__(self) -> None:
        for name in ("hidden", "length", "batch", "epochs", "patience", "warm_epochs", "buckets", "checkpoint_steps",
                     "surprise_events", "surprise_epochs"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        # `not >=`: a NaN, which TOML can say, is refused too. A warm-up below 0 would leave events unscored, without a
        # word.
        for name in ("knots", "embedding", "warmup", "pretrain_epochs", "head_epochs", "warm_days", "weight_decay",
                     "next_weight", "time_jitter", "negatives"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ModelError(f"{name} is {getattr(self, name)}: 0 or more is needed")
        for name in ("pretrain_rate", "rate", "warm_rate", "gradient_norm"):
            if not getattr(self, name) > 0 or (name != "gradient_norm" and math.isinf(getattr(self, name))):
                raise ModelError(f"{name} is {getattr(self, name)}: a number above 0 is needed")
        for name in ("dropout", "event_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: 0 or more and below 1 is needed")
