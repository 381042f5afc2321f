"""Rules of notifications, made, paused and removed by hand."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.console.browser import Browser

pytestmark = pytest.mark.integration


def test_a_rule_is_made_paused_and_removed(browser: Browser) -> None:
    browser.open("/console/notifications")
    browser.click("#new-rule")
    browser.until(lambda: browser.run("return document.activeElement.name === 'name'"), "the focus in the form")
    assert browser.violations() == []
    browser.press(*"night", Keys.ENTER)
    browser.until(lambda: "night" in browser.text("#notifications"), "the rule")
    browser.click("#pause-night")
    browser.until(lambda: "paused" in browser.text("#notifications"), "its pause")
    assert browser.violations() == []
    browser.click("#remove-night")
    browser.until(lambda: "night" not in browser.text("#notifications"), "its end")
