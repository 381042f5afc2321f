"""The first signal stops in order; a second Ctrl-C does not wait for that."""

from __future__ import annotations

from typing import Any

from weir.streams.ops.signals import StopSignals


def test_the_first_signal_stops_and_a_second_ctrl_c_does_not_wait() -> None:
    calls: list[Any] = []
    caught = StopSignals(lambda: calls.append("stop"), calls.append)
    caught(15)
    caught(15)
    assert (calls, caught.status) == (["stop"], 0)
    caught(2)
    assert calls == ["stop", 130]


def test_a_stop_by_ctrl_c_has_the_usual_status() -> None:
    caught = StopSignals(lambda: None)
    assert caught.status == 0
    caught(2)
    assert caught.status == 130
