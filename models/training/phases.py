"""The phases of a training: pre-training, the head alone, the whole network; or a short going on from a served one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from weir.models.training.network import Part
from weir.models.training.training_settings import EncoderSettings

_RISE = 0.1
_LOWEST = 0.01


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a training: what is learned in it, from which events, for how long."""

    name: str
    part: Part
    epochs: int
    rate: float
    next_weight: float
    task: bool
    """Whether labels are learned; then it is validated after each epoch, and ends early."""
    since: float = -math.inf
    """Event time from which labels are learned."""


def phases(settings: EncoderSettings, warm: bool, newest: float) -> tuple[Phase, ...]:
    """The phases of a training, in order.

    Parameters
    ----------
    warm : whether it goes on from a served encoder.
    newest : event time of the newest label to learn from.
    """
    s = settings
    if warm:
        since = newest - s.warm_days * 86_400
        return (Phase("fine-tune", "all", s.warm_epochs, s.warm_rate, s.next_weight, True, since), *_last(s))
    whole = Phase("fine-tune", "all", s.epochs, s.rate, s.next_weight, True)
    if s.pretrain_epochs == 0:
        return (whole, *_last(s))
    first = Phase("pre-train", "pretrain", s.pretrain_epochs, s.pretrain_rate, 1.0, False)
    # An untrained head would push noise into the layers that are pre-trained.
    head = Phase("head", "head", s.head_epochs, s.rate, 0.0, True)
    return (first, head, whole, *_last(s)) if s.head_epochs else (first, whole, *_last(s))


def _last(s: EncoderSettings) -> tuple[Phase, ...]:
    """What foretells the next event is fitted again, to the network that fine-tuning left."""
    rate = s.pretrain_rate
    return (Phase("surprise", "surprise", s.surprise_epochs, rate, 1.0, False),) if s.surprise else ()


def rate_at(phase: Phase, done: int, of: int) -> float:
    """Learning rate of step ``done``: up in a line over the first tenth, then down along a cosine."""
    rise = max(1, round(_RISE * of))
    if done < rise:
        return phase.rate * (done + 1) / rise
    left = (done - rise) / max(1, of - rise)
    return phase.rate * (_LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * left)))
