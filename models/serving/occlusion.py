"""Which inputs raised a logit: each is put back to its usual value, and the logit asked again.

The effect of input j on a row is ``logit(x) - logit(x with x_j = usual_j)``, the state of the entity being the same:
occlusion (Zeiler and Fergus 2014; for tabular models, Robnik-Sikonja and Kononenko 2008). It asks any graph the same
question, be it trees, a recurrent encoder or a blend, in float32 or int8, on a CPU or a GPU; and it is exactly defined
by the graph and the usual values, which the artefact holds. Of the effects that raise the logit the largest are told,
each as its part of the sum of all that do. Inputs that do the same work hide each other: both then seem small.

Rows below a level are not explained, as few of them alert: explaining one costs as much as scoring ``D`` events.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.types import BoolVector, Float32Matrix, Float32Vector, FloatVector, StepModel

USUAL_FILE: Final = "usual.json"
"""Name of the artefact's file with the usual values of its inputs."""
SHARE: Final = 0.05
"""Of all events, by the labelled ones: so many have a logit that is explained."""
_CELLS: Final = 1 << 17
"""Floats of ``x`` that one call of the model is given, at most."""


class Baseline(msgspec.Struct, frozen=True):
    """What an artefact holds for explanations: usual inputs, and how high a logit has to be."""

    usual: tuple[float, ...]
    """``(D,)`` the median of each input in what was learned from."""
    above: float
    """Logits from here on are explained."""

    @classmethod
    def of(cls, x: Float32Matrix, logit: Float32Vector, weight: FloatVector) -> Baseline:
        """Of a history's ``x (n, D)``, and of the logits ``(m,)`` of labelled events, each standing for ``weight``."""
        order = np.argsort(-logit, kind="stable")
        total = np.cumsum(weight[order])
        at = int(np.searchsorted(total, SHARE * total[-1])) if len(order) else 0
        return cls(
            tuple(np.median(x, axis=0).astype(np.float64).tolist()) if len(x) else (0.0,) * x.shape[1],
            float(logit[order[at]]) if len(order) else 0.0,
        )

    def encode(self) -> bytes:
        """The content of ``USUAL_FILE``."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes, inputs: int) -> Baseline:
        """Read it, for a model of so many inputs; raises ``ModelError``."""
        try:
            found = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as exc:
            raise ModelError(f"{USUAL_FILE}: {exc}; register the model again") from exc
        if len(found.usual) != inputs:
            raise ModelError(f"{USUAL_FILE} is of {len(found.usual)} inputs, the model has {inputs}; register anew")
        return found


class Occlusion:
    """Explains the logits of one model.

    Parameters
    ----------
    usual : of its artefact.
    top : how many inputs are told.
    place : ``(D,)`` the number of each of the model's inputs in what it is told by, from 1 on.
    """

    def __init__(self, usual: Baseline, top: int, place: NDArray[np.int64]) -> None:
        self.above, self.top, self._place = usual.above, top, place
        self._usual = np.array(usual.usual, np.float32)

    def wanted(self, logit: Float32Vector) -> BoolVector:
        """Choose the rows whose logit is high enough to be explained: ``(n,)``."""
        rows: BoolVector = logit >= self.above
        return rows

    def explain(self, model: StepModel, x: Float32Matrix, state: Float32Matrix) -> NDArray[np.float64]:
        """``(n, 2 top)`` number and part of the inputs that raised the logit most, from ``x (n, D)`` and the states.

        ``state (n, S)`` is that from before the event. Inputs with the same effect come in the order of ``inputs``.
        """
        out = np.zeros((len(x), 2 * self.top))
        # A batch of D + 1 copies of each row would grow with the square of the columns.
        some = max(1, _CELLS // (x.shape[1] * (x.shape[1] + 1)))
        for start in range(0, len(x), some):
            part = slice(start, start + some)
            effect = np.maximum(self._effects(model, x[part], state[part]), 0.0)
            sums = effect.sum(axis=1, keepdims=True)
            order = np.argsort(-effect, axis=1, kind="stable")[:, : self.top]
            shares = np.divide(effect, sums, out=np.zeros_like(effect), where=sums > 0)
            told = np.take_along_axis(shares, order, axis=1)
            out[part, 0 : 2 * order.shape[1] : 2] = np.where(told > 0, self._place[order], 0)
            out[part, 1 : 2 * order.shape[1] : 2] = told
        return out

    def _effects(self, model: StepModel, x: Float32Matrix, state: Float32Matrix) -> NDArray[np.float64]:
        """``(n, D)`` what the logit loses when an input is as usual; 0 where one of both logits is not finite."""
        n, d = x.shape
        asked = np.repeat(x[:, None, :], d + 1, axis=1)  # (n, D + 1, D): as it is, then with each input as usual
        asked[:, np.arange(1, d + 1), np.arange(d)] = self._usual
        logit = model.step(asked.reshape(-1, d), np.repeat(state, d + 1, axis=0))[0].astype(np.float64)
        whole = logit.reshape(n, d + 1)
        with np.errstate(invalid="ignore"):
            effects = whole[:, :1] - whole[:, 1:]
        effects[~np.isfinite(effects)] = 0.0  # such a difference says nothing
        return effects
