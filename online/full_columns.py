"""Names of the columns that a full model adds to a prediction, and how many of them the online model sees."""

from __future__ import annotations

from collections.abc import Sequence

SEEN: tuple[str, ...] = ("full.logit", "full.known")
"""Columns the online model sees, before ``full.e0`` and so on; both 0 without a full model, else ``known`` is 1."""
SURPRISE = "full.surprise"
"""Behind them, by ``FullSpec.surprise``, which the online model sees too: the share of usual events that were less
surprising, within [0, 1]; -0.0 (missing) where the model tells none."""
LOGGED: tuple[str, ...] = ("full.version", "full.provider", "full.shadow_logit", "full.shadow_version")
"""Columns that are only logged. Versions are the registry's, 0 for none; ``provider`` is 0 for none, and on CPU and on
CUDA 1 and 2 in float32, 3 and 4 in float16, 5 and 6 in int8.
Behind them, by ``FullSpec.reasons``, ``full.why0``, ``full.part0`` and so on: an input that raised the logit (its
number among the full model's inputs, from 1 on; 0 for none), and its part of all that raised it."""


def seen_width(features: Sequence[str]) -> int:
    """How many of a task's columns the online model sees; all of them where the task has no full model.

    >>> seen_width(("amount", "full.logit", "full.known", "full.e0", "full.version"))
    4
    """
    # By names: a learner is built over them alone, and knows no task.
    if SEEN[-1] not in features:
        return len(features)
    width = list(features).index(SEEN[-1]) + 1
    embedding = 0
    while width + embedding < len(features) and features[width + embedding] == f"full.e{embedding}":
        embedding += 1
    return width + embedding + (SURPRISE in features)
