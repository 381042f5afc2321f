"""Whether workers of a group run, as brokers tell it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from weir.streams.config.connections import KafkaSettings
from weir.streams.errors import BrokerError
from weir.streams.worker.identity import topic_check

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("error", "members", "found"),
    [
        (None, [{"member_id": "a"}, {"member_id": "b"}], 2),
        (None, [], 0),
        ("[Error 69] GroupIdNotFoundError: Group weir not found.", [], 0),
        ("[Error 16] NotCoordinatorError: ", [], None),
        ("[Error 14] CoordinatorLoadInProgressError: ", [], None),
    ],
)
async def test_an_error_does_not_mean_that_nobody_runs(
    monkeypatch: pytest.MonkeyPatch, error: str | None, members: list[Any], found: int | None
) -> None:
    """A rebuild began beside workers whose coordinator had just moved."""

    class Admin:
        def describe_groups(self, groups: list[str]) -> dict[str, Any]:
            return {group: {"error": error, "members": members} for group in groups}

    @contextmanager
    def admin(_: KafkaSettings) -> Iterator[Admin]:
        yield Admin()

    monkeypatch.setattr(topic_check, "admin_client", admin)
    if found is None:
        with pytest.raises(BrokerError, match=r"group 'weir' cannot be looked at: \[Error 1[46]\].*; try again"):
            await topic_check.active_members(KafkaSettings(), "weir")
    else:
        assert await topic_check.active_members(KafkaSettings(), "weir") == found
