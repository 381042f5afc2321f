"""What a report needs of a run beside its outcomes: some rows with their features, and the alerts that matter most.

Memory is bounded, and nothing depends on how rows were cut into calls. It knows what a pipeline makes, not pages.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from weir.online.batch import FloatMatrix
from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.stages.pipeline import StepOutput

ROWS, OF_A_CLASS, TOP_ALERTS = 2_000, 1_000, 12
_DAY_S: Final = 86_400.0


class EveryNth:
    """Rows evenly spread over a stream of unknown length: all of them, then every second one, every fourth, ...

    Parameters
    ----------
    most : rows that are held; half as many at least once there were more.

    Examples
    --------
    >>> some = EveryNth(4)
    >>> some.add(np.arange(3.0)[:, None]); some.add(np.arange(3.0, 9.0)[:, None])
    >>> some.rows().ravel().tolist(), some.seen, some.step
    ([0.0, 4.0, 8.0], 9, 4)
    """

    def __init__(self, most: int) -> None:
        self.most, self.seen, self.step = most, 0, 1
        self._held: list[FloatMatrix] = []

    def add(self, rows: FloatMatrix) -> None:
        """Take in rows ``(n, F)`` in order."""
        if not len(rows):
            return
        # From the first row of this call whose number in the stream is a multiple of the step: where calls are cut
        # plays no part. Copied, as a view would keep the whole batch.
        self._held.append(rows[-self.seen % self.step :: self.step].copy())
        self.seen += len(rows)
        while sum(map(len, self._held)) > self.most:
            self.step *= 2
            self._held = [np.concatenate(self._held)[::2]]

    def rows(self) -> FloatMatrix:
        """What is held, ``(m, F)``; ``(0, 0)`` before the first row."""
        return np.concatenate(self._held) if self._held else np.empty((0, 0))


class RunSample:
    """Watches the steps of a run."""

    def __init__(self) -> None:
        self.scored = EveryNth(ROWS)
        """Features of scored rows."""
        self.learned = EveryNth(OF_A_CLASS), EveryNth(OF_A_CLASS)
        """Features of rows that were learned as 0 and as 1, and behind them what each row weighs."""
        self.opened: Counter[int] = Counter()
        """Alerts by the day on which they opened, days since the epoch."""
        self.ended: Counter[str] = Counter()
        """Alerts that were resolved, by why."""
        self._top: dict[str, AlertState] = {}

    def add(self, out: StepOutput) -> None:
        """Take in what a step made."""
        if out.predictions is not None:
            self.scored.add(out.predictions.features)
        for examples in out.examples:
            for y, held in enumerate(self.learned):
                of = examples.y == bool(y)
                held.add(np.column_stack([examples.x[of], examples.weight[of]]))
        for alert in out.alerts:
            if alert.status == "resolved":
                self.ended[alert.verdict or "quiet"] += 1
            elif alert.events == 1:  # the one record that tells of the opening
                self.opened[int(alert.opened_at // _DAY_S)] += 1
            self._top[alert.alert_id] = alert
            # Sorted seldom, and four times what is shown is kept: an alert may still rise.
            if len(self._top) > 8 * TOP_ALERTS:
                self._top = {each.alert_id: each for each in self.top(4 * TOP_ALERTS)}

    def top(self, count: int = TOP_ALERTS) -> list[AlertState]:
        """The gravest alerts, as they were last told; the highest score first among equals."""
        order = lambda a: (-SEVERITIES.index(a.severity), -a.score, a.opened_at, a.alert_id)  # noqa: E731
        return sorted(self._top.values(), key=order)[:count]
