"""The overview: what runs, how well, and how fast."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from fastapi import Request, Response

from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.pages.environment import when
from weir.streams.pages.values import number
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.console.rendering import PageGroup
from weir.streams.service.store.alert_queries import examples_learned, happenings_of
from weir.streams.service.views.sampling import DAY_S, MAIN, Series, alerts_by_day, series_since

PERIODS: Final[Mapping[str, int]] = {"1h": 3_600, "6h": 21_600, "1d": DAY_S, "14d": 14 * DAY_S, "90d": 90 * DAY_S}
Period = Literal["1h", "6h", "1d", "14d", "90d"]
_POINTS: Final = 240
"""Points of a chart, about."""
_DAYS: Final = 14
"""Days of alerts that are held against the budget."""
_LISTED: Final = 24
"""Rows of the table below a chart, at most."""
_MARKS: Final = 50
_COLOURS: Final = ("--bar", "--bar-2", "--soft")
_MOVES: Final = ("promote", "rollback")


class OverviewPages(PageGroup):
    """The front page."""

    def _routes(self) -> None:
        self.router.get("/")(self.overview)

    async def overview(self, request: Request, period: Period = "1h", caller: Caller = needs("tasks:read")) -> Response:
        """Each task with its metrics, alerts and models; and the service."""
        ask, now, span = self._service.store.cases.ask, int(time.time()), PERIODS[period]
        # No finer than the samples, which are ten seconds apart.
        series = await ask(series_since, now - span, max(span // _POINTS, 10))
        days = await ask(alerts_by_day, [task.name for task in self._service.tasks], _DAYS)
        learned = await ask(examples_learned)
        marks = await self._marks(caller, now - span)
        champions = await self._service.models.champions(caller) if "models:read" in caller.scopes else {}
        cards = [
            {
                "task": task, "metrics": (await self._service.serving.metrics(task.name))["rolling"],
                "chart": chart(series, task.name, MAIN, marks.get(task.name, []), (0.0, 1.0)),
                "threshold": newest(series, task.name, "threshold"), "learned": learned.get(task.name),
                "days": days.get(task.name, {}), "budget": _budget(task), "champion": champions.get(task.name, "?"),
                "drifts": [mark for mark in marks.get(task.name, []) if mark["label"] == "drift"],
            }
            for task in self._service.seen_by(caller)
        ]  # fmt: skip
        return self._pages.render(
            request, "overview.html", cards=cards, period=period, periods=list(PERIODS),
            reasons=self._service.serving.ready(), trouble=self._service.store.projector.trouble,
            rates=chart(series, "", ("events/s", "decisions/s", "labels/s")),
            latency=chart(series, "", ("p50 ms", "p99 ms")),
            now_of={name: newest(series, "", name) for of, name in series if not of},
        )  # fmt: skip

    async def _marks(self, caller: Caller, since: float) -> dict[str, list[dict[str, Any]]]:
        """Drifts and swaps of full models by task, as a chart marks them."""
        found: dict[str, list[dict[str, Any]]] = {}
        for topic in (topics.RETRAIN_REQUESTS, topics.MODEL_UPDATES):
            for each in await self._service.store.cases.ask(happenings_of, caller.tasks, None, _MARKS, topic):
                record = msgspec.json.decode(each["record"])
                swap = f"v{record['version']}" if record.get("action") in _MOVES else ""
                label = "drift" if record.get("cause") == "drift" else swap
                if label and each["at"] >= since:
                    found.setdefault(each["task"], []).append({"x": each["at"], "label": label})
        return found


class Chart(NamedTuple):
    """Figures over time, for ``macros.html``."""

    drawn: dict[str, Any]
    """What ``js/chart.js`` draws."""
    heads: list[str]
    rows: list[list[str]]
    """The same as a table; of many points, some evenly spaced ones."""


def chart(
    series: Series,
    task: str,
    names: Sequence[str],
    marks: Sequence[Mapping[str, Any]] = (),
    between: tuple[float, float] | None = None,
) -> Chart | None:
    """Some figures of a task as a chart; ``None`` where none was measured."""
    held = {name: series[task, name] for name in names if (task, name) in series}
    if not held:
        return None
    xs = sorted({at for values in held.values() for at in values})
    drawn = [
        {"label": name.replace("_", " "), "values": [_short(values.get(at)) for at in xs], "colour": colour}
        for (name, values), colour in zip(held.items(), _COLOURS, strict=False)
    ]
    # Rounded up: rounded down, there would be up to twice as many.
    listed = xs[:: -(-len(xs) // _LISTED)]
    rows = [[when(at), *[number(values.get(at)) for values in held.values()]] for at in listed]
    data = {"x": xs, "series": drawn, "marks": list(marks)} | ({"range": between} if between else {})
    return Chart(data, ["Time", *(name.replace("_", " ") for name in held)], rows)


def _short(value: float | None) -> float | None:
    """Of four digits, so that a page of many points stays small."""
    return None if value is None else float(f"{value:.4g}")


def newest(series: Series, task: str, name: str) -> float | None:
    """The last of a figure's values."""
    values = series.get((task, name))
    return values[max(values)] if values else None


def _budget(task: TaskSpec) -> float | None:
    return task.threshold.most_a_day if isinstance(task.threshold, BudgetThreshold) else None
