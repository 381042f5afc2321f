"""What tests of the registry put into it: a small candidate, with data made up."""

from __future__ import annotations

from typing import Any

from tests.models.graphs import candidate
from weir.models.manifest import DataRange
from weir.models.registry.registry import Registry

DATA = DataRange(start=1.0, end=2.0, cutoff=3.0, events=10, labels=5, positives=2)


def register(registry: Registry, task: str = "fraud", seed: int = 0, **more: Any) -> int:
    return registry.register(task, candidate(seed), data=DATA, created_at=1.7e9, **more).version
