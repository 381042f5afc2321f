"""The line of one lane among several: each has its share of the alerts that a task may make."""

from __future__ import annotations

from math import floor

from weir.online.decisions.segments import SegmentedThreshold
from weir.online.decisions.threshold import Threshold
from weir.online.decisions.threshold_policy import BudgetThreshold, PrecisionThreshold, ThresholdPolicy
from weir.online.errors import TaskError
from weir.online.mistakes import did_you_mean
from weir.online.task.spec import TaskSpec


def threshold_of(task: TaskSpec, features: tuple[str, ...], share: float, lane: int) -> Threshold | SegmentedThreshold:
    """The line of one lane; one for each budget where there are several."""
    policy = task.threshold
    if not isinstance(policy, BudgetThreshold) or not policy.budgets:
        return Threshold(share_of(policy, share, lane))
    for each in policy.budgets:
        if each.input not in features:
            raise TaskError(
                f"task {task.name}: budget {each.name!r} is for a range of {each.input!r}, which is no input of the "
                f"model; {did_you_mean(each.input, features)}"
            )
    parts = [part for each in policy.parts if isinstance(part := share_of(each, share, lane), BudgetThreshold)]
    return SegmentedThreshold(policy, parts, [features.index(each.input) for each in policy.budgets])


def share_of(policy: ThresholdPolicy, share: float, lane: int = 0) -> ThresholdPolicy:
    """The policy of one lane among several: a budget is split, other thresholds need no splitting.

    The whole alerts of all lanes come to those of the task, so that its cap holds. Where there are fewer alerts than
    lanes, each lane has its part: one alert in so many more days, so that the task's cap holds on average alone.

    >>> [share_of(BudgetThreshold(alerts_per_day=10), 0.25, lane).alerts_per_day for lane in range(4)]
    [2.0, 3.0, 2.0, 3.0]
    """
    if share == 1.0:
        return policy
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; it must be in (0, 1], such as 1 / lanes")
    if isinstance(policy, BudgetThreshold):
        hourly = policy.alerts_per_hour
        split = {"alerts_per_day": _part(policy.alerts_per_day, share, lane)}
        return policy.model_copy(
            update=split | ({} if hourly is None else {"alerts_per_hour": _part(hourly, share, lane)})
        )
    if isinstance(policy, PrecisionThreshold) and policy.fallback is not None:
        return policy.model_copy(update={"fallback": share_of(policy.fallback, share, lane)})
    return policy


def _part(alerts: float, share: float, lane: int) -> float:
    """What a lane has of the alerts of all; the little more makes up for shares such as a third."""
    # Differences of rounded sums: those of all lanes come to the whole, which rounded parts would not.
    upto = [floor(alerts * share * n + 1e-6) for n in (lane, lane + 1)]
    return float(upto[1] - upto[0]) if alerts * share >= 1.0 else alerts * share
