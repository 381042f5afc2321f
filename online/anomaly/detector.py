"""The live per-series anomaly detector: seven views of a value, one score, in one pass.

Each view (robust level, step, roughness, seasonal residual, novelty of the last values, novelty of the wider context,
half-space emptiness) gives an error; an anomaly likelihood turns it into a surprise against the view's own history;
the weighted surprises are added. A series that raises an episode rests for a while (one episode, one detection) and
becomes habituated: its own threshold goes up and comes down slowly, so that a restless device does not use up the
attention that a quiet one deserves. The detector knows series as state rows, not devices, metrics or alerts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from weir.online.anomaly.half_space import draw_trees
from weir.online.anomaly.kernel import DENSITY_FEATURES, Settings, run_kernel
from weir.online.anomaly.layout import COMPONENTS, STATE_WIDTH
from weir.online.errors import TaskError
from weir.online.frozen import FrozenModel
from weir.online.mistakes import mistakes, sentence


class AnomalyParams(FrozenModel):
    """What an operator may change; rates and spans count values of a series, not seconds.

    Examples
    --------
    >>> AnomalyParams(threshold=4.0).refractory
    85
    """

    threshold: float = Field(default=4.5, gt=0.0)
    """Weighted surprise (standard deviations summed over components) that makes an unhabituated series score 0.5."""
    refractory: int = Field(default=85, ge=0)
    """Values after a raised episode during which no new one is raised: one episode, one detection."""
    habituation: float = Field(default=0.15, ge=0.0)
    """Each raised episode lifts the series' own threshold by this share of ``threshold``."""
    habituation_half_life: float = Field(default=10000.0, gt=0.0)
    """Values after which half of that lift is gone."""
    warm_up: int = Field(default=100, ge=1)
    """First values of a series, in which nothing is raised."""
    likelihood_rate: float = Field(default=0.001, gt=0.0, le=1.0)
    """Weight of a new error in the long-run mean and variance."""
    level_rate: float = Field(default=0.001, gt=0.0, le=1.0)
    """Weight of a new value in the robust level."""
    season_rate: float = Field(default=0.01, gt=0.0, le=1.0)
    """Weight of a new value in the level of its hour."""
    memory_stride: int = Field(default=11, ge=1)
    """Every how many values the present window is remembered."""
    tree_window: int = Field(default=250, ge=10)
    """Values per mass window of the half-space trees."""
    tree_seed: int = 1
    """Of the draws of the half-space trees."""
    utc_offset_s: float = Field(default=0.0)
    """Added to the event time before the hour and the weekday are taken."""
    level_weight: float = Field(default=0.25, ge=0.0)
    """Of the distance from the running level; a component of weight 0 is left out."""
    change_weight: float = Field(default=0.5, ge=0.0)
    """Of the last step, from value to value."""
    spread_weight: float = Field(default=0.25, ge=0.0)
    """Of the roughness of the last values."""
    seasonal_weight: float = Field(default=1.5, ge=0.0)
    """Of the distance from what is usual at this hour."""
    pattern_weight: float = Field(default=1.0, ge=0.0)
    """Of how new the last three values are."""
    context_weight: float = Field(default=1.0, ge=0.0)
    """Of how new the means over 3 to 100 values are."""
    density_weight: float = Field(default=0.25, ge=0.0)
    """Of how empty the region of the value is."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The components' weights, in the order of ``COMPONENTS``; a component of weight 0 is not computed."""
        return tuple(float(getattr(self, f"{name}_weight")) for name in COMPONENTS)


@dataclass(frozen=True, slots=True)
class AnomalyRun:
    """What one pass over ``n`` values found; every array belongs to the caller."""

    score: NDArray[np.float64]
    """``(n,)`` in [0, 1]; 0.5 and above is a raised episode."""
    components: NDArray[np.float64]
    """``(n, C)`` weighted surprises >= 0, columns as ``COMPONENTS``; their sum is the evidence behind the score."""
    expected: NDArray[np.float64]
    """``(n,)`` the value that was expected: of that hour, or the robust level; NaN before a series' first value."""


class SeriesAnomalyDetector:
    """Online anomaly detector for many univariate series (an ``AnomalyDetector``); holds parameters only.

    Parameters
    ----------
    params : one setting for all series.

    Examples
    --------
    >>> detector = SeriesAnomalyDetector()
    >>> state = np.zeros((1, detector.state_width))
    >>> ts = 300.0 * np.arange(1000)
    >>> values = 20 + np.sin(ts / 7000) + 0.1 * np.random.default_rng(1).normal(size=1000)
    >>> values[900:] += 8
    >>> run = detector.run_many(state, np.zeros(1000, np.int64), ts, values)
    >>> raised = np.flatnonzero(run.score >= 0.5)
    >>> [i for i in raised.tolist() if i >= 200]
    [901]
    """

    state_width: int = STATE_WIDTH
    component_names: tuple[str, ...] = COMPONENTS

    def __init__(self, params: AnomalyParams | None = None) -> None:
        self.params = params or AnomalyParams()
        p = self.params
        # Those that the kernel takes go under their own names; of the half life it needs what is left after one value.
        own = p.model_dump(include={*Settings._fields})
        self._settings = Settings(**own, decay=0.5 ** (1.0 / p.habituation_half_life))
        self._weights = np.array(p.weights)
        self._trees = draw_trees(DENSITY_FEATURES, p.tree_seed)

    def run_many(
        self, state: NDArray[np.float64], slots: NDArray[np.int64], ts: NDArray[np.float64], values: NDArray[np.float64]
    ) -> AnomalyRun:
        """Score ``values (n,)`` in order, update ``state`` in place, and say why.

        Parameters
        ----------
        state : (S, state_width) float64, changed in place; a row of zeros is a series not seen yet.
        slots : (n,) int64, the row of ``state`` each value belongs to.
        ts : (n,) float64, event time in epoch seconds; may repeat or step back a little inside a series.
        values : (n,) float64; NaN and infinite values are missing ones: score and components -0.0, nothing learned.

        Raises
        ------
        ValueError
            When ``state`` is not C-contiguous float64 of ``state_width``, lengths differ or a slot is out of range.
        """
        n = len(values)
        self._check(state, slots, ts, n)
        run = AnomalyRun(np.full(n, -0.0), np.full((n, len(COMPONENTS)), -0.0), np.full(n, np.nan))
        # One type for the kernel, whatever the caller has: it would be compiled anew for each other one.
        places = np.ascontiguousarray(slots, dtype=np.int64)
        times, xs = (np.ascontiguousarray(column, dtype=np.float64) for column in (ts, values))
        out = (run.score, run.components, run.expected)
        run_kernel(state, places, times, xs, self._weights, self._settings, self._trees, *out)
        return run

    def run_columns(
        self, state: NDArray[np.float64], slots: NDArray[np.int64], ts: NDArray[np.float64], values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """As ``run_many``, of ``values (1, n)``: score, components and expected value as the columns of a matrix."""
        run = self.run_many(state, slots, ts, values[0])
        return np.column_stack((run.score, run.components, run.expected))

    @property
    def schema(self) -> int:
        """A digest of what gives the rows their meaning."""
        text = f"{self.state_width} {self.params.model_dump_json()}"
        # Four bytes: as much as the header of a stored row has for it.
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")

    @staticmethod
    def _check(state: NDArray[np.float64], slots: NDArray[np.int64], ts: NDArray[np.float64], n: int) -> None:
        if state.ndim != 2 or state.shape[1] != STATE_WIDTH or state.dtype != np.float64:
            raise ValueError(f"state is {state.shape} {state.dtype}; give (S, {STATE_WIDTH}) float64")
        if not state.flags.c_contiguous or not state.flags.writeable:
            raise ValueError("state must be C-contiguous and writeable: it is updated in place; pass a copy")
        if len(slots) != n or len(ts) != n:
            raise ValueError(f"slots ({len(slots)}), ts ({len(ts)}) and values ({n}) must have the same length")
        if n and (slots.min() < 0 or slots.max() >= len(state)):
            raise ValueError(f"slots {slots.min()}..{slots.max()} must lie in 0..{len(state) - 1}")


def build_detector(params: Mapping[str, Any]) -> SeriesAnomalyDetector:
    """Build the detector; raises ``TaskError`` naming a parameter that is unknown or out of its range.

    >>> build_detector({"threshold": 5.0}).params.threshold
    5.0
    """
    document = dict(params)
    try:
        return SeriesAnomalyDetector(AnomalyParams.model_validate(document))
    except ValidationError as exc:
        wrong = "; ".join(sentence(each, document) for each in mistakes(AnomalyParams, exc, document))
        raise TaskError(f"anomaly params: {wrong}") from exc
