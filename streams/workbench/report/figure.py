"""Draws charts as SVG of attributes alone, in the colours of the console. It knows values, not what they are of.

Axes say which values are written beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

import numpy as np

from weir.online.batch import FloatVector, IntVector
from weir.streams.pages.values import number

MOST_POINTS: Final = 400
"""Of a line: more than pixels of its chart are seen by nobody."""
WIDTH, HEIGHT = 440, 268
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 46, 42
_LETTER: Final = 6.2
"""About how wide a letter is."""


def thinned(count: int, most: int = MOST_POINTS) -> IntVector:
    """Which of so many points to draw: evenly spread, the first and the last among them, ``(m,) int64``.

    >>> thinned(5, 3).tolist(), thinned(2, 3).tolist()
    ([0, 2, 4], [0, 1])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


class Figure:
    """One chart; what is drawn first lies behind the rest.

    Parameters
    ----------
    x, y : its axes.
    label : what a screen reader says of it.
    """

    def __init__(self, x: Axis, y: Axis, label: str) -> None:
        self.x, self.y, self.label = x, y, label
        self._parts: list[str] = []
        self._legend: list[tuple[str, str, bool]] = []

    def _px(self, values: FloatVector | Sequence[float]) -> FloatVector:
        return np.round(_LEFT + self.x.places(np.asarray(values)) * (WIDTH - _LEFT - _RIGHT), 1)

    def _py(self, values: FloatVector | Sequence[float]) -> FloatVector:
        return np.round(HEIGHT - _BOTTOM - self.y.places(np.asarray(values)) * (HEIGHT - _TOP - _BOTTOM), 1)

    def line(
        self, x: FloatVector, y: FloatVector, colour: str = "--bar", name: str = "", *, dash: bool = False
    ) -> None:
        """A line through ``(n,)`` points, broken where y is NaN; thinned where there are more than can be seen."""
        at = thinned(len(x)) if len(x) else np.zeros(0, np.int64)
        x, y = np.asarray(x)[at], np.asarray(y)[at]
        known = np.isfinite(y)
        runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1)
        for run in (run for run in runs if len(run) and known[run[0]]):
            points = " ".join(f"{a:g},{b:g}" for a, b in zip(self._px(x[run]), self._py(y[run]), strict=True))
            if len(run) == 1:  # a line of one point is seen nowhere
                self.dots(x[run], y[run], colour, radius=2.5)
                continue
            self._parts.append(
                f'<polyline fill="none" stroke="var({colour})" stroke-width="{1.5 if dash else 2}"'
                f' stroke-linejoin="round"{_dashes(dash)} points="{points}"/>'
            )
        self._note(name, colour, dash)

    def bars(
        self, left: FloatVector, right: FloatVector, y: FloatVector, colour: str, name: str,
        base: FloatVector | float = 0.0, titles: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Bars from ``base`` to y between x values, each ``(n,)``; none where y is NaN."""
        x0, x1 = self._px(left), self._px(right)
        y0, y1 = self._py(np.broadcast_to(base, y.shape)), self._py(y)
        gap = 1.0 if len(y) < 150 else 0.0
        for i in np.flatnonzero(np.isfinite(y) & (y0 > y1)).tolist():
            title = f"<title>{escape(titles[i])}</title>" if titles else ""
            wide = max(x1[i] - x0[i] - gap, 0.6)
            self._parts.append(
                f'<rect x="{x0[i]:g}" y="{y1[i]:g}" width="{wide:.4g}" height="{y0[i] - y1[i]:.4g}"'
                f' fill="var({colour})">{title}</rect>'
            )
        self._note(name, colour, False)

    def dots(
        self, x: FloatVector, y: FloatVector, colour: str = "--bar-2", name: str = "", radius: float = 4,
        titles: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Points ``(n,)``."""
        for i, (a, b) in enumerate(zip(self._px(x), self._py(y), strict=True)):
            inside = f"<title>{escape(titles[i])}</title>" if titles else ""
            self._parts.append(
                f'<circle cx="{a:g}" cy="{b:g}" r="{radius:g}" fill="var({colour})" stroke="var(--card)">{inside}'
                "</circle>"
            )
        self._note(name, colour, False)

    def marks(self, x: Sequence[float], words: Sequence[str], name: str) -> None:
        """Upright lines where something happened; ``words`` are seen when pointed at."""
        for at, text in zip(self._px(np.asarray(x)) if len(x) else (), words, strict=True):
            self._parts.append(
                f'<line x1="{at:g}" x2="{at:g}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="var(--soft)"'
                f' stroke-width="1.5" stroke-dasharray="2 3"><title>{escape(text)}</title></line>'
            )
        if len(x):
            self._note(name, "--soft", True)

    def level(self, y: float, colour: str, name: str) -> None:
        """A level line."""
        (at,) = self._py([y])
        self._parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:g}" y2="{at:g}" stroke="var({colour})"'
            f' stroke-width="1.5" stroke-dasharray="6 4"/>'
        )
        self._note(name, colour, True)

    def shade(self, x0: float, x1: float, name: str) -> None:
        """A span that is told apart, such as one where labels are still to come."""
        left, right = self._px([x0, x1])
        if right - left >= 0.5:
            self._parts.append(
                f'<rect x="{left:g}" y="{_TOP}" width="{right - left:.4g}" height="{HEIGHT - _TOP - _BOTTOM}"'
                ' fill="var(--hover)"/>'
            )
            self._note(name, "--line", False)

    def _note(self, name: str, colour: str, dash: bool) -> None:
        if name and name not in {said for said, *_ in self._legend}:
            self._legend.append((name, colour, dash))

    def svg(self) -> str:
        """The drawing."""
        label = escape(self.label)
        return (
            f'<svg class="plot chart-plot" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' role="img" aria-label="{label}"><title>{label}</title>{self._grid()}{"".join(self._parts)}'
            f"{self._frame()}{self._names()}</svg>"
        )

    def _grid(self) -> str:
        at = self._py([value for value, _ in self.y.ticks])
        lines = (f'<path d="M{_LEFT} {y:g}H{WIDTH - _RIGHT}"/>' for y in at)
        return f'<g stroke="var(--line)" stroke-width=".7">{"".join(lines)}</g>'

    def _frame(self) -> str:
        """The line under the chart, and the values and names along both sides."""
        foot = HEIGHT - _BOTTOM
        out = [f'<path d="M{_LEFT} {foot}H{WIDTH - _RIGHT}" stroke="var(--soft)" stroke-width="1"/>']
        for at, (_, text) in zip(self._py([v for v, _ in self.y.ticks]), self.y.ticks, strict=True):
            out.append(f'<text x="{_LEFT - 6}" y="{at + 4:g}" text-anchor="end">{escape(text)}</text>')
        for at, (_, text) in zip(self._px([v for v, _ in self.x.ticks]), self.x.ticks, strict=True):
            half = len(text) * _LETTER / 2
            x = min(max(at, half), WIDTH - half)  # no word leaves the picture
            out.append(f'<path d="M{at:g} {foot}v4" stroke="var(--soft)"/>')
            out.append(f'<text x="{x:g}" y="{foot + 17}" text-anchor="middle">{escape(text)}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        out.append(f'<text x="{middle:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(self.x.name)}</text>')
        return "".join(out)

    def _names(self) -> str:
        """Above the chart: what its height is, and under that what is what."""
        out, x = [f'<text x="0" y="12" class="axis">{escape(self.y.name)}</text>'], 0.0
        for name, colour, dash in self._legend:
            out.append(
                f'<path d="M{x:g} 29h14" stroke="var({colour})" stroke-width="3"{_dashes(dash, "4 2")}/>'
                f'<text x="{x + 19:g}" y="33">{escape(name)}</text>'
            )
            x += len(name) * _LETTER + 38
        return "".join(out)


def _dashes(dash: bool, pattern: str = "6 4") -> str:
    return f' stroke-dasharray="{pattern}"' if dash else ""


_TICKS: Final = 5
_HOUR, _DAY = 3600, 86_400
_STEPS_S: Final = (60, 300, 900, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, *(_DAY * n for n in (1, 2, 7, 14)))
"""Between marks of time; from a month on they stand at the first of months."""
_ODDS: Final = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Axis:
    """What a chart shows along one side.

    Parameters
    ----------
    low, high : the ends, in values.
    ticks : values that are marked, and their words.
    name : what the values are, with their unit.
    scale : from values ``(n,)`` to where they are even; as they are when not given.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str
    scale: Callable[[FloatVector], FloatVector] = np.positive

    def places(self, values: FloatVector) -> FloatVector:
        """Where values lie between the ends, 0 to 1; what is beyond an end lies on it."""
        low, high = self.scale(np.array([self.low, self.high])).tolist()
        # All values may be one: then there is no width to divide by.
        scaled: FloatVector = (self.scale(np.asarray(values, dtype=np.float64)) - low) / ((high - low) or 1.0)
        return np.clip(scaled, 0.0, 1.0)


def shares(name: str) -> Axis:
    """From 0 to 1."""
    return Axis(0.0, 1.0, ((0.0, "0"), (0.25, ".25"), (0.5, ".5"), (0.75, ".75"), (1.0, "1")), name)


def amounts(high: float, name: str, words: Callable[[float], str] = number) -> Axis:
    """From 0 to the next round number over ``high``.

    >>> [text for _, text in amounts(37.0, "alerts").ticks]
    ['0', '10', '20', '30', '40']
    """
    high = high if high > 0.0 and math.isfinite(high) else 1.0
    rough = high / (_TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    # 1e-9: a step that is right must not fail by the rounding of a float.
    step = next(unit * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * m >= rough * (1 - 1e-9))
    count = math.ceil(high / step - 1e-9)
    return Axis(0.0, count * step, tuple((k * step, words(k * step)) for k in range(count + 1)), name)


def odds(low: float, high: float, name: str) -> Axis:
    """Probabilities, even in their log-odds: one in a thousand and one in ten are told apart equally well."""
    ticks = tuple((p, f"{p:g}".removeprefix("0")) for p in _ODDS if low <= p <= high)
    return Axis(low, high, ticks, name, lambda p: np.log(p) - np.log1p(-p))


def times(low: float, high: float) -> Axis:
    """Event time (UTC) as ISO 8601 writes it, with marks at whole hours, days, months or years.

    >>> [text for _, text in times(1_700_000_000.0, 1_702_000_000.0).ticks]
    ['2023-11-16', '2023-11-23', '2023-11-30', '2023-12-07']
    >>> times(1_700_000_000.0, 1_700_040_000.0).name
    'event time (UTC), from 2023-11-14'
    """
    high = high if high > low else low + 1.0
    step = next((s for s in _STEPS_S if (high - low) / s <= _TICKS), None)
    if step is None:
        return Axis(low, high, tuple(_months(low, high)), "event time (UTC)")
    first = math.ceil(low / step) * step
    words = "%Y-%m-%d" if step >= _DAY else "%H:%M" if high - low < _DAY else "%m-%d %H:%M"
    at = [float(first + k * step) for k in range(int((high - first) // step) + 1)]
    ticks = tuple((t, datetime.fromtimestamp(t, UTC).strftime(words)) for t in at)
    since = "" if step >= _DAY else f", from {datetime.fromtimestamp(low, UTC):%Y-%m-%d}"
    return Axis(low, high, ticks, f"event time (UTC){since}")


def _months(low: float, high: float) -> list[tuple[float, str]]:
    """The first of every month, of every third, or of years."""
    months = (high - low) / (30.4 * _DAY)
    every = next((n for n in (1, 2, 3, 6) if months / n <= _TICKS), 12 * max(1, math.ceil(months / 12 / _TICKS)))
    start = datetime.fromtimestamp(low, UTC)
    count, found = start.year * 12 + start.month, []
    while (at := datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)).timestamp() <= high:
        if count % every == 0:
            found.append((at.timestamp(), at.strftime("%Y" if every >= 12 else "%Y-%m" if months > 11 else "%Y-%m-%d")))
        count += 1
    return found
