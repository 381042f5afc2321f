"""Every page of the console: those of the navigation, and those that only links lead to."""

from __future__ import annotations

from typing import Final

from tests.console.browser import Browser
from weir.streams.service.console.rendering import PLACES

_ALERT: Final = "#rows a[href^='/console/alerts/']"
_ENTITY: Final = "main a[href^='/console/entities/']"
NAVIGATION: Final = {place.name.lower(): (place.path,) for place in PLACES}
# Of everything, not of what waits: other tests of one service may have resolved all that did.
DETAILS: Final = {
    "alert": ("/console/alerts?show=any", _ALERT),
    "entity": ("/console/alerts?show=any&task=fraud", _ALERT, _ENTITY),
    "device": ("/console/alerts?show=any&task=device_failure", _ALERT, _ENTITY),
    "dead letter": (
        "/console/dead-letters",
        "main a[href^='/console/dead-letters?']",
        "main a[href^='/console/dead-letters/']",
    ),
}
"""By name, where to begin and which links to follow from there."""
PAGES: Final = NAVIGATION | DETAILS
TRAINED: Final = {"model": ("/console/models", "main a[href^='/console/models/']")}
"""Where a full model was trained."""


def find(browser: Browser, name: str) -> str:
    """Go to a page as a person would; its path."""
    start, *links = (PAGES | TRAINED)[name]
    browser.open(start)
    for link in links:
        browser.open(str(browser.one(link).get_attribute("href")).removeprefix(browser.base))
    return browser.path
