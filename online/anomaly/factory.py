from __future__ import annotations
from typing import Any


def build_detector(params: dict[str, Any]) -> Any:
    raise NotImplementedError
