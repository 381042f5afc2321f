"""Tests of the service's other parts talk to it as anyone on this machine may who has its token."""

from __future__ import annotations

import pytest

from weir.streams.service.access.access import Access
from weir.streams.service.access.caller import Caller, administrator
from weir.streams.service.store import cases


@pytest.fixture(autouse=True)
def as_administrator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends nothing is the administrator; ``tests/service/access`` has the real rule."""
    if request.path.parent.name == "access":
        return
    real = Access.identify

    async def identify(self: Access, asked: object) -> Caller:
        if "authorization" in asked.headers or asked.headers.get("cookie"):  # type: ignore[attr-defined]
            return await real(self, asked)  # type: ignore[arg-type]
        return administrator("token")

    monkeypatch.setattr(Access, "identify", identify)
    monkeypatch.setattr(Access, "visited", lambda *_: None)  # the audit would be in the log that a test looks at


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer waits for its effect, however busy the machine is; tests of what is told before that say so."""
    monkeypatch.setattr(cases, "PATIENCE_S", 60.0)
