"""One filled service and one browser for all tests of the console; each test fails for an error in the browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console import browser as browsers
from tests.console.browser import Browser
from tests.console.simulated import Filled, filled
from tests.integration.serve_process import TOKEN, Served
from weir.streams.client.client import Client


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Browser]:
    browser = browsers.start()
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, _chromium: Browser) -> Iterator[Filled]:
    """A service with open alerts of three tasks; a test that kills it starts it again."""
    with filled(tmp_path_factory.mktemp("console")) as served:
        assert isinstance(served, Filled)
        yield served


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[Client]:
    """The same service for a program: what a test does that no person does."""
    with Client(served.url, TOKEN) as client:
        yield client


@pytest.fixture
def browser(_chromium: Browser, served: Served) -> Iterator[Browser]:
    """A browser of the administrator, signed on, light, 1280 pixels wide; fails the test for what its console says.

    A test that provokes an error (a refusal, a service that is gone) reads ``errors()`` itself.
    """
    if isinstance(served, Served):  # a module may have another service, in a thread
        served.ensure()
    _chromium.base = served.url
    _chromium.driver.get("about:blank")  # whatever a test left on its page is no page that is waited for
    _chromium.prefer("light")
    _chromium.size()
    _chromium.open(f"/?token={TOKEN}")
    _chromium.run("localStorage.clear()")
    _chromium.errors()
    yield _chromium
    assert _chromium.errors() == []
