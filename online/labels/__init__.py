"""Labels: join them with what was logged at scoring, sample negatives, and read labels from silence."""

from __future__ import annotations

from online.labels.join import LabelJoiner, Wanted
from online.labels.policy import Joined, JoinPolicy, JoinStats
from online.labels.sampling import NegativeSampler
from online.labels.silence import SilencePolicy, SilenceStats, SilenceTimers, TimerOutput

__all__ = [
    "JoinPolicy",
    "JoinStats",
    "Joined",
    "LabelJoiner",
    "NegativeSampler",
    "SilencePolicy",
    "SilenceStats",
    "SilenceTimers",
    "TimerOutput",
    "Wanted",
]
