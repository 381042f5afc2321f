"""Settings of the per-series anomaly detector. One setting serves every kind of series."""

from __future__ import annotations

from pydantic import Field

from weir.online.anomaly.layout import COMPONENTS
from weir.online.frozen import FrozenModel


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
    utc_offset_s: float = 0.0
    """Added to the event time before the hour and the weekday are taken."""
    level_weight: float = Field(default=0.25, ge=0.0)
    change_weight: float = Field(default=0.5, ge=0.0)
    spread_weight: float = Field(default=0.25, ge=0.0)
    seasonal_weight: float = Field(default=1.5, ge=0.0)
    pattern_weight: float = Field(default=1.0, ge=0.0)
    context_weight: float = Field(default=1.0, ge=0.0)
    density_weight: float = Field(default=0.25, ge=0.0)

    @property
    def weights(self) -> tuple[float, ...]:
        """The components' weights, in the order of ``COMPONENTS``; a component of weight 0 is not computed."""
        return tuple(float(getattr(self, f"{name}_weight")) for name in COMPONENTS)
