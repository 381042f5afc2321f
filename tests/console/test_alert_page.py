"""The page of one alert by hand: a verdict that the model learns, its undo, two people at once, and the keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from tests.console.browser import Browser
from tests.console.test_every_page import PHONE
from tests.integration.serve_process import TOKEN, Served
from weir.streams.client.client import Client

pytestmark = pytest.mark.integration


def person(served: Served, name: str) -> httpx.Client:
    """Somebody else, who is an analyst."""
    asked = {"name": name, "role": "analyst"}
    made = httpx.post(f"{served.url}/v1/keys", json=asked, headers={"Authorization": f"Bearer {TOKEN}"})
    assert made.status_code in (200, 201), made.text
    return httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {made.json()['key']}"})


@pytest.fixture
def opened(browser: Browser, client: Client) -> str:
    """An open alert of fraud, which the browser shows as the list's second one."""
    browser.open("/console/alerts?task=fraud&sort=newest")
    rows = browser.all("#row-list > tr[data-id]")
    alert_id = str(rows[1].get_attribute("data-id"))
    browser.open(str(rows[1].find_element("css selector", "a.open").get_attribute("href")).removeprefix(browser.base))
    assert client.alert(alert_id)["verdict"] is None
    return alert_id


def test_a_verdict_changes_the_score_and_the_page_says_so(browser: Browser, opened: str, client: Client) -> None:
    browser.press("1")
    browser.until(lambda: "Confirmed" in browser.text("#case .card p strong"), "the verdict")
    scores = "return [...document.querySelectorAll('#score-before, #score-now')].map((e) => Number(e.title))"
    before, now = browser.until(lambda: browser.run(scores) or None, "what the model learned")
    assert now != before  # of one label more among thousands; which way a single event's score moves is the model's
    browser.until(lambda: "Learned at version" in browser.text("#effect"), "the version")
    alert = client.alert(opened)
    assert alert["verdict"] == "confirmed"
    toast = browser.text(".toast:last-child")
    assert "1 confirmed." in toast
    assert "Undo" in toast
    browser.press("u")
    browser.until(lambda: not browser.all("#undo"), "the undo")
    browser.until(lambda: "took the verdict back" in browser.text(".timeline"), "the undo in the history")
    browser.until(lambda: not browser.one("#effect").text, "an empty effect")
    assert client.alert(opened)["verdict"] is None


def test_a_card_that_is_filled_later_says_so(browser: Browser, opened: str) -> None:
    assert opened
    said = browser.run("""
        const card = document.createElement("div");
        card.setAttribute("hx-trigger", "load");
        card.setAttribute("aria-busy", "true");
        document.body.append(card);
        const empty = getComputedStyle(card, "::before").content;
        card.textContent = "filled";
        const filled = getComputedStyle(card, "::before").content;
        card.remove();
        return [empty, filled];
    """)
    assert said == ['"Reading …"', "none"]


def test_the_score_is_made_again_on_the_page(browser: Browser, opened: str) -> None:
    assert opened
    browser.press("r")
    browser.until(lambda: "Equal, bit for bit" in browser.text("#again"), "the score")
    assert browser.violations() == []


@pytest.fixture
def ben(served: Served) -> Iterator[httpx.Client]:
    """Another analyst."""
    with person(served, "ben") as somebody:
        yield somebody


def test_two_people_do_not_work_on_one_alert(browser: Browser, opened: str, ben: httpx.Client) -> None:
    at = f"/v1/alerts/{quote(opened, safe='')}"
    assert ben.post(f"{at}/presence").status_code == 200
    browser.open(browser.path)
    assert "ben has it open" in browser.text("#presence")
    assert ben.post(f"{at}/assign", json={}).status_code == 200
    browser.until(lambda: "ben" in browser.text("#alert-head"), "whose it is, by the feed")
    browser.press("a")
    assert "ben has claimed it" in browser.text(".toast.bad")
    assert ben.post(f"{at}/assign", json={"release": True}).status_code == 200
    browser.until(lambda: "nobody" in browser.text("#alert-head"), "that it is free")
    browser.press("a")
    browser.until(lambda: "Release" in browser.text("#assign"), "that it is mine")
    assert ben.post(f"{at}/assign", json={}).status_code == 409
    browser.press("a")
    browser.until(lambda: "Assign to me" in browser.text("#assign"), "that it is free again")


def test_notes_stay_while_others_work_and_the_way_through_the_list(
    browser: Browser, opened: str, ben: httpx.Client
) -> None:
    browser.one("#hand-note").send_keys("half a sent")
    assert ben.post(f"/v1/alerts/{quote(opened, safe='')}/notes", json={"note": "<b>mine</b>\u202e"}).status_code == 200
    browser.until(lambda: "<b>mine</b>" in browser.text(".timeline"), "the note as text")
    assert browser.one("#hand-note").get_attribute("value") == "half a sent"
    assert browser.run("return document.activeElement.id") == "hand-note"
    browser.run("document.activeElement.blur()")
    first = browser.path
    browser.press("j")
    browser.until(lambda: browser.path != first, "the following alert")
    browser.settle()
    browser.press("k")
    browser.until(lambda: browser.path == first, "the alert again")
    assert str(browser.one("#back").get_attribute("href")).endswith("/console/alerts?task=fraud&sort=newest")


def test_what_others_wrote_breaks_no_layout(browser: Browser, opened: str, ben: httpx.Client, client: Client) -> None:
    at = f"/v1/alerts/{quote(opened, safe='')}"
    for note in ("w" * 2_000, "\u202e<script>alert(1)</script> " * 50, "\n" * 500 + "end"):
        assert ben.post(f"{at}/notes", json={"note": note}).status_code == 200
    odd = "<img src=x onerror=alert(1)>".ljust(64, "W")
    client.post("/v1/events", **{
        "v": 1, "event_id": "odd-1", "type": "purchase", "user_id": odd, "ts": time.time(), "amount": 1e6,
        "merchant_id": "m", "properties": {"text": "<script>alert(2)</script>" * 10},
    })  # fmt: skip
    for path in (browser.path, f"/console/entities/{quote(odd, safe='')}"):
        for width in (1280, PHONE):
            browser.size(width)
            browser.open(path)
            assert browser.too_wide() == []
            assert not browser.all("main script:not([type='application/json']), main img")
    assert browser.text("h1") == odd
    browser.click("#events summary")
    assert "<script>alert(2)" in browser.text("#events pre")
    assert browser.violations() == []


@pytest.mark.parametrize("key", ["4", "s", "e", "n"])
def test_a_key_does_what_the_help_says(browser: Browser, opened: str, client: Client, key: str) -> None:
    browser.press(key)
    if key == "s":
        assert browser.run("return document.activeElement.id") == "hold"
        browser.press(Keys.ENTER)
        browser.until(lambda: client.alert(opened)["held_until"], "the hold")
    elif key == "e":
        browser.until(lambda: client.alert(opened)["state"] == "escalated" or None, "the escalation")
    elif key == "n":
        browser.until(lambda: "admin" in browser.text("#alert-head"), "the next alert, claimed")
        assert not browser.path.endswith(quote(opened, safe=""))
    else:  # these tasks list no reasons
        assert client.alert(opened)["verdict"] is None


def test_the_next_alert_is_of_the_list_that_one_came_from(browser: Browser) -> None:
    browser.open("/console/alerts?task=churn")  # the first of all that wait is of another task
    address = str(browser.all("#row-list a.open")[0].get_attribute("href"))
    browser.open(address.removeprefix(browser.base))
    browser.press("n")
    browser.until(lambda: "admin" in browser.text("#alert-head"), "the next alert, claimed")
    assert browser.path.startswith("/console/alerts/churn%3A")
