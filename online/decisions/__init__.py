"""Decisions: thresholds over scores, alerts that open, escalate and end, and the reasons they give."""

from __future__ import annotations

from online.decisions.alert_state import AlertState, Reason
from online.decisions.alerts import AlertBook, AlertPolicy, AlertStats
from online.decisions.reasons import ReasonPolicy, ReasonWriter
from online.decisions.threshold import (
    BudgetThreshold,
    CostThreshold,
    FixedThreshold,
    PrecisionThreshold,
    RefreshPolicy,
    Threshold,
    ThresholdPolicy,
)
from online.decisions.typical import TypicalValues

__all__ = [
    "AlertBook",
    "AlertPolicy",
    "AlertState",
    "AlertStats",
    "BudgetThreshold",
    "CostThreshold",
    "FixedThreshold",
    "PrecisionThreshold",
    "Reason",
    "ReasonPolicy",
    "ReasonWriter",
    "RefreshPolicy",
    "Threshold",
    "ThresholdPolicy",
    "TypicalValues",
]
