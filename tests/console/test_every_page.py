"""What holds for every page: axe finds nothing, the browser reports nothing, nothing is wider than a small window."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.console.browser import Browser, Theme
from tests.console.pages import PAGES, find

pytestmark = pytest.mark.integration

PHONE = 390
PAGE_BYTES = 200_000
"""Of a page with everything that it loads."""


@pytest.mark.parametrize("theme", get_args(Theme))
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_accessible_and_fits(browser: Browser, page: str, theme: Theme) -> None:
    browser.prefer(theme)
    find(browser, page)
    assert browser.run("return document.documentElement.dataset.theme") == theme
    assert len(browser.all("h1")) == 1
    assert all(address.startswith(browser.base) for address in browser.loaded()), "nothing comes from elsewhere"
    assert sum(browser.loaded().values()) <= PAGE_BYTES
    assert browser.violations() == []
    browser.size(zoom=2.0)
    assert browser.too_wide() == []
    browser.size(PHONE, 844)
    assert browser.too_wide() == []
    assert browser.violations() == []
    assert browser.errors() == []


def test_what_is_wrong_is_seen(browser: Browser) -> None:
    """The other tests could not fail if this one did not pass."""
    browser.open("/console/alerts")
    browser.run("""
        const image = document.createElement("img");
        const wide = document.createElement("p");
        wide.textContent = "w".repeat(3000);
        document.querySelector("main").append(image, wide);
        const style = document.createElement("link");
        Object.assign(style, {rel: "stylesheet", href: "https://elsewhere.example/x.css"});
        document.head.append(style);
    """)
    assert any(found.startswith("image-alt") for found in browser.violations())
    assert browser.too_wide()
    assert any("Content Security Policy" in said for said in browser.until(browser.errors, "an error"))
