"""The kept models of other libraries, with the maps and rows that were kept with them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weir.models.onnx.input_map import InputMap
from weir.models.types import Float32Matrix, FloatVector

FOLDER = Path(__file__).parent / "imported"
FEATURES = ("amount", "ratio", "hour", "country_code")
"""Columns of the rows."""
NAMES = sorted(path.stem for path in FOLDER.glob("*.onnx"))


@dataclass(frozen=True)
class Kept:
    """One of them."""

    onnx: bytes
    text: str
    rows: Float32Matrix
    """``(16, 4)`` of ``FEATURES``."""
    expected: FloatVector
    """``(16,)`` what the library itself said."""

    @property
    def map(self) -> InputMap:
        return map_of(self.text)

    @property
    def x(self) -> Float32Matrix:
        """The columns that the map names, in its order."""
        return self.rows[:, [FEATURES.index(name) for name in self.map.features]]


def map_of(text: str) -> InputMap:
    return InputMap.model_validate(tomllib.loads(text))


def kept(name: str) -> Kept:
    said = json.loads((FOLDER / f"{name}.json").read_text())
    rows = np.array(said["rows"], np.float32)
    return Kept((FOLDER / f"{name}.onnx").read_bytes(), said["map"], rows, np.array(said["expected"]))
