"""``weir features`` refuses, before it connects, what it cannot show or may not do, and shows ages as durations."""

from __future__ import annotations

import socket

from tests.streams.weir_commands import TASKS, weir
from weir.streams.cli.operate.features import shown
from weir.streams.errors import UsageError


def test_ages_are_shown_as_durations() -> None:
    found = [shown("user.x_since_last", value) for value in (0.5, 90.0, 5400.0, 172_800.0, float("nan"))]
    assert found == ["0.5 s", "1.5 min", "1.5 h", "2 d", "missing"]


def test_a_rebuild_that_nobody_is_there_to_confirm_does_nothing() -> None:
    _, _, error = weir("features", "rebuild", "--task", str(TASKS))
    assert isinstance(error, UsageError)
    assert "give --yes" in str(error)


def test_features_of_a_table_that_no_task_has_are_refused_before_connecting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {"WEIR_REDIS__URL": f"redis://127.0.0.1:{taken.getsockname()[1]}/0", "WEIR_REDIS__TIMEOUT_S": "0.2"}
        fraud = str(TASKS / "fraud.toml")
        _, _, error = weir("features", "get", "u1", "--task", fraud, "--table", "fraud.users", env=env)
        assert "no such table" in str(error)
        assert "fraud.user," in str(error)
        _, _, error = weir("features", "get", "u1", "--task", fraud, "--at", "noon", env=env)
        assert "--at 'noon'" in str(error)
