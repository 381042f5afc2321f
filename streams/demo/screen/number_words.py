"""Numbers and times as people read them: plain text without colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_METRIC_NAMES: Final = {
    "auc": "AUC",
    "roc_auc": "AUC",
    "ap": "AP",
    "average_precision": "AP",
    "log_loss": "log loss",
    "f1": "F1",
    "ece": "calib. err",
}


def metric_name(name: str) -> str:
    """A metric's name as a column title.

    >>> metric_name("log_loss"), metric_name("brier")
    ('log loss', 'brier')
    """
    return _METRIC_NAMES.get(name, name.replace("_", " "))


def decimals(value: float, places: int = 3) -> str:
    """A fixed number of decimals, a dash where there is no value yet.

    >>> decimals(0.71234), decimals(float("nan"))
    ('0.712', '-')
    """
    return f"{value:.{places}f}" if math.isfinite(value) else "-"


def short_count(value: float) -> str:
    """A count in at most five characters.

    >>> [short_count(n) for n in (950, 12_345, 999_960, 1_934_120)]
    ['950', '12.3k', '1.00M', '1.93M']
    """
    for limit, divisor, unit in ((1e4, 1.0, ""), (999.95e3, 1e3, "k"), (999.995e6, 1e6, "M")):
        if value < limit:
            scaled = value / divisor
            return (
                f"{scaled:,.0f}"
                if not unit
                else f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
            )
    return f"{value / 1e9:.3g}G"


def milliseconds(value: float) -> str:
    """A latency with a precision that fits its size.

    >>> milliseconds(0.834), milliseconds(12.34), milliseconds(2_500.0)
    ('0.83 ms', '12 ms', '2.5 s')
    """
    if not math.isfinite(value):
        return "-"
    if value >= 1_000:
        return f"{value / 1_000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2f} ms"


def minutes(seconds: float) -> str:
    """A duration as minutes and seconds.

    >>> minutes(75.4)
    '01:15'
    """
    whole = max(int(seconds), 0)
    return f"{whole // 60:02d}:{whole % 60:02d}"


def event_time(ts: float, form: str = "%a %d %b %Y %H:%M") -> str:
    """Event time in UTC.

    >>> event_time(1_770_905_100.0)
    'Thu 12 Feb 2026 14:05'
    """
    return datetime.fromtimestamp(ts, UTC).strftime(form)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of ``values`` in ``width`` characters at most: averages of equal slices, lowest to highest.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)
    '▁▂▃▄▅▆▇█'
    >>> sparkline([0.5, 0.5], 8)
    '▅▅'
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width <= 0:
        return ""
    count = min(width, len(finite))
    edges = [round(i * len(finite) / count) for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high - low < 1e-12:
        return _BLOCKS[4] * count
    return "".join(_BLOCKS[min(int((mean - low) / (high - low) * 8), 7)] for mean in means)
