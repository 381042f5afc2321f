"""The page of one alert by hand: a verdict that the model learns, its undo, two people at once, and the keys."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.console.browser import Browser
from tests.integration.serve_process import TOKEN, Served
from weir.streams.client.client import Client


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
    assert now > before
    browser.until(lambda: "Learned at version" in browser.text("#effect"), "the version")
    alert = client.alert(opened)
    assert alert["verdict"] == "confirmed"
    toast = browser.text(".toast:last-child")
    assert "Confirmed." in toast
    assert "Undo" in toast
    browser.press("u")
    browser.until(lambda: not browser.all("#undo"), "the undo")
    browser.until(lambda: "took the verdict back" in browser.text(".timeline"), "the undo in the history")
    browser.until(lambda: not browser.one("#effect").text, "an empty effect")
    assert client.alert(opened)["verdict"] is None


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
    assert any("409" in said for said in browser.errors())
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
