"""What the OpenAPI document promises, asked with whatever it allows and much that it does not (Schemathesis)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.service.running import listening, make_service

ENDLESS = {"/v1/feed"}
"""Answers that never end are looked at elsewhere."""


@contextmanager
def served(directory: Path) -> Iterator[tuple[str, str]]:
    """A service in a thread of its own: its address, and the token of its administrator."""
    service, ready, stop = make_service(directory), threading.Event(), threading.Event()
    found: list[int] = []

    async def run() -> None:
        async with listening(service) as port:
            found.append(port)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(60)
        assert service.access.token is not None
        yield f"http://127.0.0.1:{found[0]}", service.access.token
    finally:
        stop.set()
        thread.join()


def test_no_request_is_answered_but_as_the_document_says(tmp_path: Path, subtests: pytest.Subtests) -> None:
    with served(tmp_path) as (url, token):
        key = {"Authorization": f"Bearer {token}"}
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=key)
        operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
        assert len(operations) > 10
        for operation in (each for each in operations if each.path not in ENDLESS):
            with subtests.test(f"{operation.method} {operation.path}"):

                @given(case=operation.as_strategy())
                @settings(
                    max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                def holds(case: Any) -> None:
                    if case.path == "/v1/decisions":  # what is late is 504, and no fault
                        case.query = {**(case.query or {}), "deadline_ms": 60_000}
                    # An id that has the form of one need not be one: that it is refused is no fault.
                    case.call_and_validate(headers=key, excluded_checks=[positive_data_acceptance])

                holds()
