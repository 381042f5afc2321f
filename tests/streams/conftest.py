"""The uninterrupted run of the embedded host with which several modules compare theirs."""

from __future__ import annotations

import pytest

from tests.streams.host_runs import Straight, straight_run


@pytest.fixture(scope="session")
def straight() -> Straight:
    return straight_run()
