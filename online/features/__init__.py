"""Features by declaration: windows, exponentially weighted means, label-fed risk, anomaly scores."""

from online.features.engine import FeatureBlock, FeatureEngine
from online.features.plan import Plan, build_plan
from online.features.spec import Aggregate, Anomaly, Entity, LabelAggregate
from online.features.store import FeatureStore

__all__ = [
    "Aggregate",
    "Anomaly",
    "Entity",
    "FeatureBlock",
    "FeatureEngine",
    "FeatureStore",
    "LabelAggregate",
    "Plan",
    "build_plan",
]
