"""The detector of states: how unlike the reference of this entity its sensors are, for as long as that lasts.

It learns a reference (rows, a time, or while a flag says so), raises nothing in it, and judges what comes after by it
alone: a machine that stays wrong stays wrong. See ``state_kernel`` for what is learned and ``detector`` for the other
kind, which finds the onset of something new and then gets used to it. It knows rows of numbers, not devices or alerts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from weir.online.anomaly.state_fit import LEAST_KEPT, fit
from weir.online.anomaly.state_kernel import StateSettings, run_states
from weir.online.anomaly.state_layout import state_width, view_row
from weir.online.anomaly.state_params import StateParams, outputs, span
from weir.online.errors import TaskError
from weir.online.mistakes import mistakes, sentence

_LAYOUT = 1
"""Of the meaning of a row; another one makes stored rows unreadable."""


class StateDetector:
    """Online detector of states over several sensors of many entities; holds parameters only.

    Parameters
    ----------
    sensors : their names, in the order of their values.
    reference : ``400 rows`` or a duration; ``None`` where a flag among the values says so.
    params : one setting for all entities.

    Examples
    --------
    >>> detector = StateDetector(("flow", "pressure"), "400 rows")
    >>> rng = np.random.default_rng(1)
    >>> flow = rng.normal(size=1000)
    >>> values = np.stack([flow, 2 * flow + 0.1 * rng.normal(size=1000), np.full(1000, np.nan), np.zeros(1000)])
    >>> values[1, 700:] += 1.0
    >>> out = detector.run_columns(np.zeros((1, detector.state_width)), np.zeros(1000, int), np.arange(1000.0), values)
    >>> score, sensor, off = out[:, 0], out[:, 2], out[:, detector.outputs.index("implied_pressure")]
    >>> bool((score[740:] > 0.99).all()), bool((score[400:700] > 0.99).mean() < 0.05)
    (True, True)
    >>> detector.sensors[int(sensor[999]) - 1], round(float(off[900:].mean()), 1)
    ('pressure', 1.0)
    """

    def __init__(self, sensors: Sequence[str], reference: str | None, params: StateParams | None = None) -> None:
        self.sensors, self.reference, self.params = tuple(sensors), reference, params or StateParams()
        smooth, hold = span(self.params.smooth), span(self.params.hold)
        rows = (0.0, 0.0) if reference is None else span(reference)
        # Rows within the first half-life are not kept (`_keep`), as they have hardly been smoothed.
        if 0.0 < rows[0] < (least := smooth[0] + LEAST_KEPT):
            raise TaskError(
                f"anomaly reference = '{rows[0]:.0f} rows': with smooth = {self.params.smooth!r} a reference needs "
                f"{least:.0f} rows at least, and several hundred to be good"
            )
        self._settings = StateSettings(*rows, *smooth, *hold)
        self.state_width = state_width(len(self.sensors))
        self.outputs = outputs(self.sensors)

    @property
    def schema(self) -> int:
        """A digest of what gives the rows their meaning."""
        text = f"{_LAYOUT} {self.sensors} {self.reference} {self.params.model_dump_json()}"
        # Four bytes: as much as the header of a stored row has for it.
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")

    def run_columns(
        self, state: NDArray[np.float64], slots: NDArray[np.int64], ts: NDArray[np.float64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Judge ``n`` rows in order and update ``state`` in place; a column for each of ``outputs``.

        Parameters
        ----------
        state : (S, state_width) float64; a row of zeros is an entity not seen yet.
        slots : (n,) int64, the row of ``state`` each one belongs to.
        ts : (n,) float64, event time in epoch seconds.
        values : (d + 2, n) float64: the sensors, the flag of the reference (not read where a span is given), whether
            the reference begins again. NaN is missing: a row of them alone reads and changes nothing.
        """
        out = np.full((len(ts), len(self.outputs)), np.nan)
        times, xs = (np.ascontiguousarray(each, dtype=np.float64) for each in (ts, values))
        places, at = np.ascontiguousarray(slots, dtype=np.int64), 0
        # ``fit`` takes medians, quantiles and an inverse of NumPy, once a reference: it is not compiled into the pass
        # over rows.
        while (at := run_states(state, places, times, xs, self._settings, at, out)) < len(times):
            fit(view_row(state[places[at]], len(self.sensors)), self.params.shrinkage)
        return out


def build_state_detector(sensors: Sequence[str], reference: str | None, params: Mapping[str, Any]) -> StateDetector:
    """Build the detector; raises ``TaskError`` naming a parameter that is unknown or out of its range."""
    document = dict(params)
    try:
        return StateDetector(sensors, reference, StateParams.model_validate(document))
    except ValidationError as exc:
        wrong = "; ".join(sentence(each, document) for each in mistakes(StateParams, exc, document))
        raise TaskError(f"anomaly params: {wrong}") from exc
