"""Explains one logged score: the model of then, the score again, and what each feature added to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.streams.errors import UsageError
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.logged_scores import LoggedScore


@dataclass(frozen=True, slots=True)
class Contribution:
    """One feature's part in the score."""

    feature: str
    value: float
    contribution: float
    """What it added to the log-odds, against the model's reference point."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A logged score beside the same score made again."""

    logged: LoggedScore
    digest: str
    """Of the model at the version that scored."""
    score: float
    """As the rebuilt model gives it."""
    contributions: tuple[Contribution, ...]
    """The largest first."""

    @property
    def equal(self) -> bool:
        """Whether the two scores have the same bits."""
        return np.float64(self.logged.score).tobytes() == np.float64(self.score).tobytes()


def version_of(logged: LoggedScore, fold: ExampleFold) -> int:
    """The version that made a score; raises ``UsageError`` when this task file cannot have."""
    if not isinstance(logged.model_version, int):
        raise UsageError(
            f"task {fold.task}: the score was made by model {logged.model_version!r} of the registry, not by a version "
            "of the online model; only the latter are rebuilt from examples"
        )
    missing = sorted({*fold.features} - {*logged.features})
    extra = sorted({*logged.features} - {*fold.features})
    if missing or extra:
        raise UsageError(
            f"task {fold.task}: the task file has other features than the score was made from: it lacks "
            f"{', '.join(extra[:3]) or 'none'} and adds {', '.join(missing[:3]) or 'none'}; give the task file of then"
        )
    return logged.model_version


def explain(logged: LoggedScore, fold: ExampleFold) -> Explanation:
    """Score again with ``fold``, which is at the version that made the score."""
    x = np.array([[logged.features[name] for name in fold.features]])
    added = fold.model.learner.contributions(x)[0].tolist()
    parts = [Contribution(name, logged.features[name], part) for name, part in zip(fold.features, added, strict=True)]
    score, _ = fold.model.score(x)
    return Explanation(
        logged,
        fold.model.snapshot().digest,
        float(score[0]),
        tuple(sorted(parts, key=lambda c: (-abs(c.contribution), c.feature))),
    )
