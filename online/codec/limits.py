"""What a record may hold: every limit on input, as one frozen model with defaults.

Sizes are judged before a record is decoded, values after it; nothing behind that meets a value out of range. A record
that passes a limit becomes a dead letter whose reason begins with the word named here, so that metrics count by it.
docs/LIMITS.md is generated from this model. Nothing here knows topics, clocks or codecs.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from weir.online.frozen import FrozenModel

WEIGHT_MAX: Final = 1e6
"""The largest weight of a label that may be allowed."""


class InputLimits(FrozenModel):
    """``[limits]`` of the settings.

    >>> InputLimits(weight=20).weight
    20.0
    """

    record_bytes: int = Field(default=1_048_576, ge=1_024, le=1 << 28)
    """A record's value, in bytes after decompression; more is ``oversized``."""
    batch_bytes: int = Field(default=16 << 20, ge=1 << 20, le=1 << 30)
    """All records of one compressed Kafka batch, in bytes after decompression; more is ``oversized``, and the batch is
    refused by its offsets without being held in memory."""
    number: float = Field(default=1e15, gt=0, le=1e16)
    """The largest absolute value of a metric or of a number in ``properties``; more is ``out of range``. Windows keep
    squared deviations as float32, which must hold those of what is allowed."""
    amount: float = Field(default=1e12, gt=0, le=1e16)
    """The largest absolute value of an ``amount``; more is ``out of range``. A refund's is negative."""
    weight: float = Field(default=1_000.0, ge=1, le=WEIGHT_MAX)
    """The largest ``weight`` of a label; more is ``out of range``."""


DEFAULT_LIMITS: Final = InputLimits()
