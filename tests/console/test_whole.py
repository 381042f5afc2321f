"""The console over a real service: killed and started again, used by two at once, and fed with hostile text."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

from tests.console import browser as browsers
from tests.console.browser import Browser
from tests.console.simulated import Filled, an_alert, send
from weir.streams.client.client import Client

pytestmark = pytest.mark.integration

HOSTILE = '<script>document.body.dataset.hostile = "1"</script><img src=x onerror=alert(1)>\u202egnihsif\u202c\u2066'
"""Mark-up that would run, and marks that turn the direction of what follows them."""
KEPT = """
    window.kept = new Set();
    document.body.addEventListener("weir:alert", (event) => {
        for (const told of event.detail.records) kept.add((told.record ?? told).alert_id);
    });
"""


def all_alerts(client: Client) -> set[str]:
    return {alert["alert_id"] for alert in client.alerts()}


def test_a_page_that_is_open_gets_every_alert_over_a_kill(browser: Browser, served: Filled, client: Client) -> None:
    browser.open("/console/alerts")
    browser.until(lambda: browser.all("#live[data-state=on]"), "the feed")
    browser.run(KEPT)
    before = all_alerts(client)
    for _ in range(3):
        send(client, served.later.pop(0))
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    browser.until(lambda: browser.all("#live[data-state=wait]"), "that the feed is gone")
    served.start()
    browser.until(lambda: browser.all("#live[data-state=on]"), "the feed again")
    for _ in range(3):
        send(client, served.later.pop(0))
    browser.until(lambda: len(all_alerts(client) - before) >= 5, "alerts of the newest events")
    browser.until(lambda: all_alerts(client) - before <= set(browser.run("return [...kept]")), "every one of them")
    assert "new" in browser.text("#new-link")
    browser.press(".")
    browser.until(lambda: not browser.all("#new-link"), "the list with the new ones")
    gone = ("ERR_", "Failed to fetch")  # as the service was
    assert [said for said in browser.errors() if not any(words in said for words in gone)] == []


def test_a_page_says_live_once_the_tab_that_follows_has_the_feed(browser: Browser) -> None:
    browser.open("/health")  # a page without the console's scripts
    browser.run("navigator.locks.request('weir-feed', () => new Promise(() => {}))")  # which would follow, and does not
    silent = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.open("/console/alerts")
    assert browser.text("#live") == "connecting"
    shown = browser.driver.current_window_handle
    browser.driver.switch_to.window(silent)
    browser.driver.close()
    browser.driver.switch_to.window(shown)
    browser.until(lambda: browser.text("#live") == "live", "the feed")


@pytest.fixture
def other(served: Filled, client: Client) -> Iterator[Browser]:
    """The browser of an analyst beside the administrator's."""
    key = client.post("/v1/keys", name="ben", role="analyst")["key"]
    with closing(browsers.start()) as window:
        window.base = served.url
        window.header("Authorization", f"Bearer {key}")
        yield window


def test_two_analysts_do_not_get_the_same_alert(browser: Browser, other: Browser, client: Client) -> None:
    alert_id = an_alert(client, "churn")
    whose = client.alert(alert_id)["entity_id"]
    for window in (browser, other):  # both look at it before either claims it
        window.open(f"/console/alerts?task=churn&q={whose}")
        window.one("#row-list tr a.open").send_keys("")
    browser.press("a")
    browser.until(lambda: client.alert(alert_id)["assignee"] == "admin", "the claim")
    other.press("a")
    assert "admin" in other.text(".toast:last-child")
    assert client.alert(alert_id)["assignee"] == "admin"


def hostile_text(browser: Browser) -> list[Any]:
    """Elements that hostile text became, and whether one ran."""
    found: list[Any] = browser.run("""
        const made = document.querySelectorAll("main img, main script:not([type='application/json'])");
        return [...[...made].map((e) => e.outerHTML), ...(document.body.dataset.hostile ? ["it ran"] : [])];
    """)
    return found


def test_hostile_text_through_the_door_is_text_on_every_page(browser: Browser, client: Client) -> None:
    name = HOSTILE[:52] + "\u202egnp\u202c"
    reading = {"v": 1, "event_id": "hostile-1", "device_id": name, "ts": "never", "metrics": {HOSTILE: 1.0}}
    long = {"v": 1, "event_id": "x" * 10_000, "user_id": HOSTILE * 100, "type": "purchase"}
    assert client.send_events(msgspec.json.encode(reading) + b"\n" + msgspec.json.encode(long)).refused == 2
    alert_id = an_alert(client)
    client.post(f"/v1/alerts/{alert_id}/notes", note=(HOSTILE + " " + "w" * 5_000)[:2_000])
    client.retrain("fraud", HOSTILE)
    letter = next(each["id"] for each in client.get("/v1/dead-letters")["letters"])
    pages = ["/console/dead-letters", f"/console/dead-letters/{letter}", "/console/drift", "/console/audit"]
    for page in pages:
        browser.open(page)
        assert hostile_text(browser) == [], page
        browser.size(390, 844)
        assert browser.too_wide() == [], page
        assert browser.violations() == [], page
        browser.size()
