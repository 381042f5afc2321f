"""Judges two models on what they said live and what came of it: a fold over labelled examples, with snapshot.

*Shadow*: a candidate is scored beside the champion. After ``examples`` labelled ones it is promoted where it is not
worse by the bootstrap (``weir.models.evaluation.gate``), else retired. *Watch*: the champion that was replaced is
scored beside the new one, which is rolled back when it falls behind with confidence, and kept after as many examples.

There are ``LOOKS`` looks at a phase, at fixed counts, so that the outcome does not depend on how the log is cut into
batches. The looks before the last may only end what is clearly worse; each has its share of the error that
``confidence`` allows (Bonferroni), for looking often would otherwise find something. Rows that were scored in another
arrangement of models, such as those from before a swap whose labels come late, say nothing and are passed over.

Scores of one entity are alike, and so are its labels: the bootstrap draws entities with all their rows, for rows drawn
one by one would count a busy entity as so many witnesses (Field and Welsh, Bootstrapping clustered data, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from weir.models.evaluation.gate import MIN_OF_EACH, Metric, Verdict, compare
from weir.models.types import IntVector
from weir.streams.trainer.job.live_examples import LiveRows

Decision = Literal["promote", "retire", "rollback", "settle"]

LOOKS: Final = 5
PATIENCE: Final = 10
"""Times ``examples``: how long a phase waits for enough positives, or for workers that score both models."""
ROWS_MAX: Final = 100_000
"""Rows of a phase at most, where there are more than that to wait for: each sign of life of a trainer writes them all
anew into its document, some 100 bytes a row."""


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """What a task asks for (``weir.online.task.full_spec.TrainingSpec``)."""

    examples: int
    metric: Metric
    confidence: float
    seed: int


class PhaseState(msgspec.Struct, frozen=True):
    """A phase and the rows it has seen."""

    kind: Literal["shadow", "watch"]
    serving: int
    """Version that serves; 0 for none."""
    other: int
    """Version that is scored beside it: the candidate, or the champion before."""
    since: float
    """Event time from which on both should be scored."""
    event_id: tuple[str, ...] = ()
    y: tuple[bool, ...] = ()
    weight: tuple[float, ...] = ()
    logit: tuple[float, ...] = ()
    other_logit: tuple[float, ...] = ()
    entity: tuple[str, ...] = ()
    """Whose event each is; empty in a document of before that was noted, where each event stands for itself."""
    passed_by: int = 0
    """Labelled events behind ``since`` that were not scored by both."""


class PhaseOutcome(NamedTuple):
    """The decision that ended a phase, with its reason."""

    decision: Decision
    reason: str
    metrics: dict[str, float]
    rows: int
    """Of the call's rows so many belong to the phase; the others to the next."""


class PromotionPhase:
    """One phase; see the module.

    Parameters
    ----------
    rules : of the task.
    state : where it stands: a new ``PhaseState``, or a snapshot.
    """

    def __init__(self, rules: PromotionRules, state: PhaseState) -> None:
        self.rules, self.head = rules, state
        self._at = {event: k for k, event in enumerate(state.event_id)}
        self._y, self._weight = list(state.y), list(state.weight)
        self._logit, self._other = list(state.logit), list(state.other_logit)
        self._entity = list(state.entity or state.event_id)
        self._passed_by = state.passed_by

    def __len__(self) -> int:
        return len(self._y)

    def snapshot(self) -> PhaseState:
        """Return the whole state of the phase."""
        return msgspec.structs.replace(
            self.head, event_id=tuple(self._at), y=tuple(self._y), weight=tuple(self._weight),
            logit=tuple(self._logit), other_logit=tuple(self._other), entity=tuple(self._entity),
            passed_by=self._passed_by,
        )  # fmt: skip

    def update(self, rows: LiveRows) -> PhaseOutcome | None:
        """Take in rows in log order until the phase is decided; ``None`` when all were taken in and it is not."""
        ours = (rows.version == self.head.serving) & (rows.shadow_version == self.head.other)
        strange = ~ours & (rows.ts >= self.head.since)
        for k in np.flatnonzero(ours | strange).tolist():
            found = self._take(rows, k) if ours[k] else self._pass_by()
            if found is not None:
                return found._replace(rows=k + 1)
        return None

    def _take(self, rows: LiveRows, k: int) -> PhaseOutcome | None:
        event = rows.event_id[k]
        if (at := self._at.get(event)) is not None:  # a label that was corrected, or a record that was repeated
            self._y[at], self._weight[at] = bool(rows.y[k]), float(rows.weight[k])
            return None
        self._at[event] = len(self._y)
        self._y.append(bool(rows.y[k]))
        self._weight.append(float(rows.weight[k]))
        self._logit.append(float(rows.logit[k]))
        self._other.append(float(rows.shadow_logit[k]))
        self._entity.append(rows.entity[k])
        n, last = len(self), self.rules.examples
        # Later looks come only where positives are still too few, and no more often: each look costs certainty.
        if n >= last and n % last == 0:
            return self._last_look(n + last > min(PATIENCE * last, ROWS_MAX))
        return self._early_look() if n < last and n % max(1, last // LOOKS) == 0 else None

    def _early_look(self) -> PhaseOutcome | None:
        """End what is clearly worse; of a first candidate there is nothing it could be worse than."""
        if self.head.serving == 0:
            return None
        verdict = self._verdict()
        if self.head.kind == "shadow" and verdict.outcome == "worse":
            return self._decided("retire", verdict)
        if self.head.kind == "watch" and verdict.outcome == "better":
            return self._decided("rollback", verdict)
        return None

    def _last_look(self, at_the_end: bool) -> PhaseOutcome | None:
        positives = sum(self._y)
        if min(positives, len(self) - positives) < MIN_OF_EACH and not at_the_end:
            return None
        verdict = self._verdict()
        if self.head.kind == "shadow":
            return self._decided("promote" if verdict.passed else "retire", verdict)
        return self._decided("rollback" if verdict.outcome == "better" else "settle", verdict)

    def _pass_by(self) -> PhaseOutcome | None:
        self._passed_by += 1
        # With enough rows of its own a phase waits for positives, not for workers.
        if self._passed_by < PATIENCE * self.rules.examples or len(self) >= self.rules.examples:
            return None
        h = self.head
        beside = f"version {h.other} beside {h.serving}" if h.serving else f"version {h.other}"
        reason = (
            f"only {len(self)} of {len(self) + self._passed_by} labelled events were scored by {beside}: see in the "
            "workers' logs whether they refused it"
        )
        return PhaseOutcome("retire" if h.kind == "shadow" else "settle", reason, {}, 0)

    def _verdict(self) -> Verdict:
        """The other model held against the one that serves."""
        # A first candidate has one look alone.
        share = (1 - self.rules.confidence) / LOOKS if self.head.serving else 1 - self.rules.confidence
        return compare(
            np.array(self._y, np.bool_), np.array(self._weight),
            np.array(self._logit) if self.head.serving else None, np.array(self._other),
            metric=self.rules.metric, confidence=1 - share, seed=self.rules.seed,
            groups=self._groups(),
        )  # fmt: skip

    def _groups(self) -> IntVector:
        return np.unique(self._entity, return_inverse=True)[1]

    def _decided(self, decision: Decision, verdict: Verdict) -> PhaseOutcome:
        known = {"live_metric": verdict.candidate, "live_metric_before": verdict.champion, "live_labels": verdict.n}
        if self.head.kind == "watch":
            known["live_metric"], known["live_metric_before"] = verdict.champion, verdict.candidate
        who = f"version {self.head.other} beside {self.head.serving or 'none'}"
        metrics = {name: float(value) for name, value in known.items() if np.isfinite(value)}
        return PhaseOutcome(decision, f"{who}: {verdict.reason}", metrics, 0)
