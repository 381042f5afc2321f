"""The bars of alerts by day: every number can be read, however near its bar comes to the line of the budget."""

from __future__ import annotations

import re

import pytest

from weir.streams.pages.environment import environment
from weir.streams.pages.values import FOLDER

ASCENT, DESCENT = 9.0, 2.0
"""Of the letters of a number, in the units of the drawing (11 px of a plain font)."""


@pytest.mark.parametrize("budget", [1.0, 15.0, 60.0, 2_000.0])
def test_no_number_is_crossed_by_the_line_of_the_budget(budget: float) -> None:
    macros = environment(FOLDER / "templates").get_template("macros.html").module
    for tenth in range(1, 20):
        counts = {1_700_000_000.0 + 86_400 * day: (day + 1) * budget * tenth / 100 for day in range(14)}
        drawn = str(macros.day_bars(counts, budget, "Alerts a day"))  # type: ignore[attr-defined]
        line = float(re.findall(r'<line [^>]*y1="([0-9.]+)"', drawn)[0])
        places = [float(y) for y in re.findall(r'<text x="[0-9.]+" y="([0-9.]+)" text-anchor="middle">', drawn)]
        assert len(places) == 14
        assert [y for y in places if y - ASCENT < line < y + DESCENT] == []
        assert min(places) >= ASCENT, "it is in the picture"
