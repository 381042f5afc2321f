"""Which output of a foreign graph counts, and what it says: a probability, log-odds or a label of two classes.

Outputs are tensors ``(n,)``, ``(n, 1)`` or ``(n, 2)``, maps of classes (ZipMap, as skl2onnx, onnxmltools and CatBoost
make them) or labels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.onnx.input_map import InputMap
from weir.models.types import FloatVector

FLOOR: Final = 1e-9
"""Probabilities are taken for at least this, so that logits are within 21."""
_POSITIVE: Final = ("1", "true", "yes", "y", "positive")
_SLACK: Final = 1e-4


@dataclass(frozen=True, slots=True)
class ForeignOutput:
    """The output that counts."""

    name: str
    width: int = 1
    """Columns: 1 or 2."""
    labels: bool = False
    """Whether it says the class itself."""
    positive: Any = 0
    """The column of the positive class; of labels the label."""
    logits: bool = False
    zipped: tuple[Any, ...] = ()
    """Of maps of classes: the classes in the order of the columns that the maps are made of."""

    def logit(self, raw: NDArray[Any]) -> FloatVector:
        """The logit ``(n,)`` of the positive class, in float64, from the output ``(n, width)``.

        Raises ``ModelError`` where it cannot be a probability.
        """
        if self.labels:
            p = np.array([label == self.positive for label in raw[:, 0].tolist()], np.float64)
            return _log_odds(p, 1 - p)
        values = raw.astype(np.float64)
        self._check(values)
        p = values[:, self.positive]
        q = values[:, 1 - self.positive] if self.width == 2 else (0.0 if self.logits else 1.0) - p
        if self.logits:
            return p - q if self.width == 2 else p
        return _log_odds(p, q)

    def _check(self, values: NDArray[np.float64]) -> None:
        if np.isnan(values).any():
            raise ModelError(
                f"output {self.name} is nan for {np.isnan(values).any(axis=1).sum()} of {len(values)} rows: where the "
                "model takes no nan, give missing = NUMBER in the map"
            )
        worst = float(values.flat[np.argmax(np.abs(values - 0.5))]) if values.size else 0.0
        if not self.logits and not -_SLACK <= worst <= 1 + _SLACK:
            raise ModelError(
                f"output {self.name} is {worst:.4g}, no probability (0 to 1): for log-odds give output = 'logit' in "
                "the map; a regressor cannot be served"
            )


def _log_odds(p: FloatVector, q: FloatVector) -> FloatVector:
    odds: FloatVector = np.log(np.maximum(p, FLOOR)) - np.log(np.maximum(q, FLOOR))
    return odds


def choose_output(session: Any, mapping: InputMap) -> str:
    """The output that is named, else the only one that is not a label, else one called a probability."""
    kinds: dict[str, str] = {value.name: value.type for value in session.get_outputs()}
    if mapping.output_name is not None:
        if mapping.output_name not in kinds:
            raise ModelError(f"output_name is {mapping.output_name!r}; the graph gives {', '.join(kinds)}")
        return mapping.output_name
    told = [name for name, kind in kinds.items() if "float" in kind or "double" in kind]
    if len(told) > 1:
        told = [name for name in told if "prob" in name.lower()] or told
    chosen = told or list(kinds)
    if len(chosen) != 1:
        raise ModelError(f"the graph gives {', '.join(chosen)}; say with output_name which one counts")
    return chosen[0]


def as_columns(out: Any, classes: Sequence[Any] = ()) -> NDArray[Any]:
    """An output as ``(n, C)``; a list of maps of classes has a column for each of ``classes``, in their order.

    The runtime sorts a map by its classes, whatever the order of the columns that it was made of.
    """
    if isinstance(out, list):
        named = classes if out and {*classes} == {*out[0]} else list(out[0] if out else ())
        made = np.array([[row[label] for label in named] for row in out])
    else:
        made = np.asarray(out)
    if made.ndim not in (1, 2):
        raise ModelError(f"the output has shape {made.shape}; it must be (n,) or (n, classes)")
    return made.reshape(len(made), -1)


def read_output(model: Any, name: str, raw: NDArray[Any], mapping: InputMap) -> ForeignOutput:
    """Understand an output from what it gave for some rows, ``(n, C)``; raises ``ModelError`` if it is none of ours."""
    classes, labels, width = _classes(model, name), raw.dtype.kind in "OUSbiu", raw.shape[1]
    if width > 2 or len(classes) > 2:
        named = f" ({', '.join(map(str, classes[:5]))})" if classes else ""
        raise ModelError(f"output {name} is of {max(width, len(classes))} classes{named}; only two can be served")
    asked = mapping.positive
    if labels:
        positive = _named(classes, asked) if classes else asked if asked is not None else 1
        # Else no label would ever be the positive one, and every probability 0.
        if isinstance(positive, str) is not (raw.dtype.kind in "OUS"):
            raise ModelError(f"positive is {positive!r}; labels are like {raw[0, 0]!r}: give the label as it is there")
    elif width == 1:
        positive = 0
    elif classes:
        positive = classes.index(_named(classes, asked))
    elif asked in (None, 0, 1):
        positive = 1 if asked is None else asked
    else:
        raise ModelError(f"positive is {asked!r}, but the graph does not name its classes: give 0 or 1, the column")
    return ForeignOutput(name, width, labels, positive, mapping.output == "logit", zipped_classes(model, name))


def zipped(model: Any, output: str) -> Any:
    """The node that makes maps of an output; ``None`` where it is a tensor."""
    return next((node for node in model.graph.node if node.op_type == "ZipMap" and output in node.output), None)


def zipped_classes(model: Any, output: str) -> tuple[Any, ...]:
    """The classes of the maps of an output, in the order of their columns; none where it is a tensor."""
    return _classes(model, output) if zipped(model, output) is not None else ()


def _classes(model: Any, output: str) -> tuple[Any, ...]:
    """The classes in the order of the columns, as a node or a constant of the graph names them."""
    from onnx import TensorProto, helper, numpy_helper

    node = zipped(model, output)
    # The last first: those before may be of parts of the model, which know the classes by number.
    named = [helper.get_attribute_value(a) for n in ([node] if node is not None else reversed(model.graph.node))
             for a in n.attribute if a.name.startswith("classlabels_")]  # fmt: skip
    text = TensorProto.STRING
    texts = any(value.type.tensor_type.elem_type == text for value in model.graph.output)
    held = [w for w in model.graph.initializer
            if w.name.startswith("classes") or (texts and w.data_type == text and list(w.dims) == [2])]  # fmt: skip
    named += [numpy_helper.to_array(weight).reshape(-1).tolist() for weight in held]
    found = (tuple(map(_plain, labels)) for labels in named if len(labels))
    return next((labels for labels in found if not texts or isinstance(labels[0], str)), ())


def _plain(label: Any) -> Any:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else label


def _named(classes: Sequence[Any], asked: int | str | None) -> Any:
    for word in _POSITIVE if asked is None else (str(asked).lower(),):
        for label in classes:
            if str(label).lower() == word:
                return label
    said = "it is not clear which class is the positive one" if asked is None else f"positive is {asked!r}"
    raise ModelError(f"{said}; the classes of the graph are {', '.join(map(repr, classes))}: give one as positive")
