"""Pages of who runs the service, in a browser: questions before a change, the feed over a killed service, charts."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import suppress
from itertools import permutations
from typing import Final
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from tests.console.browser import Browser
from tests.integration.serve_process import Served
from weir.streams.client.calls import ServiceError
from weir.streams.client.client import Client

pytestmark = pytest.mark.integration


def focused(browser: Browser) -> str:
    """The id of what has the focus."""
    return str(browser.run("return document.activeElement.id"))


def test_a_question_holds_the_focus_and_escape_gives_it_back(browser: Browser) -> None:
    browser.open("/console/dead-letters")
    opener = browser.one("#letters button")
    asked_by = opener.get_attribute("id")
    opener.click()
    browser.until(lambda: browser.run("return document.getElementById('ask').open"), "the question")
    assert browser.violations() == []
    for _ in range(5):  # more often than there is something to focus: the browser's own bar lies in between
        browser.press(Keys.TAB)
        assert browser.run(
            "return document.activeElement === document.body || document.activeElement.closest('#ask') !== null"
        )
    browser.press(Keys.ESCAPE)
    browser.until(lambda: focused(browser) == asked_by, "the focus")
    assert browser.run("return document.getElementById('ask').childElementCount") == 0


def test_a_dead_letter_is_dropped_and_the_page_says_so(browser: Browser, client: Client) -> None:
    late = {"v": 1, "event_id": "late", "type": "purchase", "user_id": "u", "ts": time.time() - 2e6, "amount": 9.5}
    with suppress(ServiceError):  # where all are refused, the answer says so
        client.send_events([late])
    browser.open("/console/dead-letters?reason=late")
    browser.click("main a[href^='/console/dead-letters/']")  # the newest
    browser.click("#drop")
    browser.click("#ask button.danger")
    assert "1 record dropped." in browser.text("#toasts")
    browser.until(lambda: "dropped" in browser.text("#letter dl"), "the page that says so")
    assert not browser.run("return document.getElementById('ask').open")
    assert not browser.all("#drop")


def test_a_key_is_made_shown_once_and_revoked(browser: Browser, served: Served) -> None:
    browser.open("/console/keys")
    browser.click("#new-key")
    browser.until(lambda: browser.run("return document.activeElement.name === 'name'"), "the focus in the form")
    browser.press(*"till", Keys.ENTER)
    secret = browser.text("#secret")
    assert browser.violations() == []
    with Client(served.url, secret) as till:
        assert till.get("/v1/tasks")["tasks"]
    browser.click("#ask [data-closes]:last-child")
    browser.until(lambda: "till" in browser.text("#keys"), "the key in the list")
    assert secret not in browser.run("return document.documentElement.outerHTML")
    browser.click("#keys .danger")
    browser.click("#ask button.danger")
    browser.until(lambda: "revoked" in browser.text("#keys"), "its end")


def test_what_is_refused_is_said_in_the_question(browser: Browser) -> None:
    browser.open("/console/keys")
    browser.click("#new-key")
    browser.one("#ask [name=name]").send_keys("\u2028")
    browser.run("document.querySelector('#ask [name=name]').value = '\\u0007'")
    browser.click("#ask button.primary")
    assert "characters that print" in browser.text("#ask-problem")
    assert browser.run("return document.getElementById('ask').open")
    assert any("422" in said for said in browser.errors())


def test_the_overview_draws_what_was_sampled(browser: Browser) -> None:
    browser.open("/console/")
    browser.until(lambda: browser.all(".chart canvas"), "a chart, which comes with the next samples")
    assert browser.violations() == []
    assert browser.run(
        "return [...document.querySelectorAll('.chart')].every((c) => c.parentElement.querySelector('table'))"
    )
    browser.click("#theme")
    assert browser.all(".chart canvas")
    browser.click("#period-1d")
    browser.settle()
    assert browser.path == "/console/?period=1d"


_DENSE: Final = """
const x = Array.from({ length: 90 }, (_, i) => 1.77e9 + i * 3600);
const marks = x.map((at, i) => ({ x: at, label: i % 30 === 7 ? "alert" : "label 0" }));
const said = { x, series: [{ label: "score", values: x.map(() => 0.5), points: true }], marks, range: [0, 1] };
const block = document.body.appendChild(document.createElement("div"));
Object.assign(block, { id: "dense", hidden: true, textContent: JSON.stringify(said) });
document.querySelector("main").appendChild(document.createElement("div")).dataset.chart = "dense";
window.texts = [];
window.written = [];
const fill = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  const wide = this.measureText(text).width;
  window.written.push(text);
  if (/alert|label/.test(text)) window.texts.push([text, this.textAlign === "right" ? x - wide : x, y, wide]);
  return fill.apply(this, arguments);
};
document.getElementById("theme").click();
"""
"""A chart with more marks than there is room for their texts, drawn as the theme changes."""


def test_texts_of_marks_do_not_lie_on_each_other(browser: Browser) -> None:
    browser.open("/console/")
    browser.run(_DENSE)
    found = browser.until(lambda: browser.run("return window.texts"), "texts of the marks")
    texts = {(text, *place) for text, *place in found}  # it may be drawn again meanwhile
    assert [text for text, *_ in texts].count("alert") == 3  # what is rare is told in any case
    assert 8 < len(texts) < 90
    for (_, x, y, wide), (_, at, height, _) in permutations(texts, 2):
        assert y != height or not x <= at < x + wide


def test_times_are_written_as_iso_8601_does_wherever_the_browser_is_from(browser: Browser) -> None:
    browser.open("/console/")
    browser.run(_DENSE)
    browser.until(lambda: browser.run("return window.texts"), "the chart")
    written = {
        text for text in browser.run("return window.written") if not re.fullmatch(r"alert|label 0|[\d.,]+", text)
    }
    days = {text for text in written if re.fullmatch(r"20\d\d-\d\d-\d\d", text)}
    assert days
    assert all(re.fullmatch(r"\d\d:\d\d(:\d\d)?", clock) for clock in written - days), written
    browser.open("/console/alerts")
    shown = browser.run("return [...document.querySelectorAll('time[data-when]')].map((each) => each.textContent)")
    assert shown
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d( UTC)?", each) for each in shown), shown[:3]


def note(client: Client, text: str) -> None:
    """Something that the feed tells."""
    alert = next(iter(client.alerts()))
    client.post(f"/v1/alerts/{quote(alert['alert_id'], safe='')}/notes", note=text)


def test_the_feed_waits_while_somebody_looks_and_resumes_after_a_kill(
    browser: Browser, client: Client, served: Served
) -> None:
    browser.open("/console/feed?type=case-event&since=1m")
    browser.until(lambda: browser.text("#feed-state") == "live", "the feed")
    note(client, "before")
    browser.until(lambda: "before" in browser.text("#records"), "a record")
    browser.click("#records summary")
    shown = json.loads(browser.text("#records details[open] pre"))
    assert shown["record"]["note"] == "before"
    assert browser.violations() == []
    browser.click("#pause")
    note(client, "paused")
    assert "1 record waits" in browser.until(lambda: browser.text("#waits") or None, "the count")
    served.end(signal.SIGKILL)
    browser.until(lambda: browser.text("#feed-state") == "reconnecting", "the end of the feed")
    served.start()
    browser.until(lambda: browser.text("#feed-state") == "live", "the feed again")
    note(client, "after")
    browser.until(lambda: "2 records wait" in browser.text("#waits"), "the record after")
    browser.click("#records summary")  # what is open is looked at
    browser.click("#pause")
    browser.run("document.activeElement.blur()")
    browser.click("h1")
    browser.until(lambda: "after" in browser.text("#records"), "the records that waited")
    lines, mine = browser.text("#records").splitlines(), ("before", "paused", "after")
    told = [word for text in lines for word in mine if "note" in text and word in text]  # another test may have noted
    assert told == ["after", "paused", "before"]
    browser.errors()  # the connection that was cut
