"""The page of alerts by hand: every key, what others do meanwhile, and what comes meanwhile.

Its service has its log in memory and no tasks that run, so that a test decides which alerts come, and when.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.console.browser import Browser
from tests.integration.serve_process import TOKEN
from tests.service.console_service import Desk, alert, make_desk_service
from tests.service.memory_log import MemoryServiceLog
from tests.service.running import listening
from weir.streams.records import Record

pytestmark = pytest.mark.integration

_T = TypeVar("_T")
ROWS = "#row-list > tr[data-id]"
MARKED = "#row-list > tr.current"
TOAST = ".toast:last-child"


class LiveDesk:
    """The service in a thread of its own, behind a socket."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        log = MemoryServiceLog()
        service = make_desk_service(folder, log, access={"token": TOKEN})
        self._listening = listening(service)
        self.url = f"http://127.0.0.1:{self.run(self._listening.__aenter__())}"
        self.desk = Desk(service, log, httpx.AsyncClient(base_url=self.url))
        self._numbers = count()

    def run(self, what: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def arrive(self, records: Sequence[Record]) -> None:
        self.run(self.desk.arrive(records))

    def others(self, name: str, what: str, ids: Sequence[str], **more: str) -> None:
        """Somebody else does something."""

        async def do() -> None:
            said = {"alert_ids": list(ids), **more}
            answer = await self.desk.client.post(f"/console/alerts/{what}", headers=self.desk.person(name), data=said)
            assert answer.status_code == 200, answer.text

        self.run(do())

    def end(self) -> None:
        self.run(self.desk.client.aclose())
        self.run(self._listening.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDesk]:
    """In place of the service that other modules share."""
    live = LiveDesk(tmp_path_factory.mktemp("desk"))
    yield live
    live.end()


_names = count()


@pytest.fixture
def ids(served: LiveDesk, browser: Browser) -> list[str]:
    """Five alerts in the order of the list, which is open: a search of the first four letters has them alone."""
    word = f"w{next(_names):03d}"
    records = [
        alert(n, amount=100.0 - n, entity_id=f"{word}-{n}", alert_id=f"fraud:{word}-{n}:e", event_ids=(f"{word}{n}",))
        for n in range(5)
    ]
    served.arrive(records)
    browser.open(f"/console/alerts?q={word}")
    found = listed(browser)
    assert found == [f"fraud:{word}-{n}:e" for n in range(5)]
    return found


def shift(browser: Browser, key: str) -> None:
    ActionChains(browser.driver, duration=0).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()


def marked(browser: Browser) -> str | None:
    """Whose row has the focus, and is marked."""
    focused = browser.run(f"return document.activeElement.closest('{ROWS}')?.dataset.id")
    assert browser.run(f"return document.querySelector('{MARKED}')?.dataset.id") == focused
    return str(focused) if focused else None


def picked(browser: Browser) -> list[str]:
    boxes = "document.querySelectorAll('[name=alert_ids]:checked')"
    found: list[str] = browser.run(f"return [...{boxes}].map(e => e.value)")
    return found


def listed(browser: Browser) -> list[str]:
    return [row.get_attribute("data-id") or "" for row in browser.all(ROWS)]


def says(browser: Browser, css: str, words: str) -> str:
    """Wait until an element says so; what it says in all."""
    return browser.until(
        lambda: next((e.text for e in browser.all(css) if words in e.text), None), f"{words!r} in {css}"
    )


def state(browser: Browser, alert_id: str) -> str:
    """What the page says of the state of an alert."""
    find = f"return [...document.querySelectorAll('{ROWS}')].find(e => e.dataset.id === arguments[0])"
    return str(browser.run(f"{find}.querySelector('[data-label=State]').innerText", alert_id))


def test_rows_are_walked_and_selected_by_keys(browser: Browser, ids: list[str]) -> None:
    browser.press("j")
    assert marked(browser) == ids[0]
    browser.press("j", "j", "k")
    assert marked(browser) == ids[1]
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert marked(browser) == ids[2]
    browser.press("k", "x")
    assert picked(browser) == [ids[1]]
    browser.press("j", "j")
    shift(browser, "x")
    assert picked(browser) == ids[1:4]
    assert says(browser, "#selected", "3 selected")
    browser.press("k", "x")
    assert picked(browser) == [ids[1], ids[3]]
    browser.click("#select-all")
    assert picked(browser) == ids
    browser.click("#select-none")
    assert picked(browser) == []
    assert browser.violations() == []


def test_enter_opens_the_alert(browser: Browser, ids: list[str]) -> None:
    browser.press("j", "j", Keys.ENTER)
    browser.until(lambda: browser.path.startswith("/console/alerts/") or None, "the page of the alert")
    browser.settle()
    assert ids[1].split(":")[1] in browser.path
    browser.errors()  # of a service whose tasks do not run, the page cannot show everything


@pytest.mark.parametrize(("key", "words", "verdict"), [
    ("1", "1 confirmed", "confirmed"), ("2", "1 marked as false alarm", "false alarm"),
    ("3", "1 marked as unsure", "unsure"),
])  # fmt: skip
def test_a_verdict_by_one_key_marks_the_row_where_it_is_and_is_undone(
    browser: Browser, ids: list[str], key: str, words: str, verdict: str
) -> None:
    browser.press("j", "j", key)
    assert "Undo" in says(browser, TOAST, words)
    assert verdict in state(browser, ids[1])
    assert listed(browser) == ids
    assert marked(browser) == ids[1]
    assert picked(browser) == []
    browser.press("u")
    says(browser, TOAST, "1 as before")
    assert verdict not in state(browser, ids[1])
    assert marked(browser) == ids[1]
    browser.press("j")
    assert marked(browser) == ids[2]


def test_keys_that_come_faster_than_answers_are_each_about_their_own_row(browser: Browser, ids: list[str]) -> None:
    browser.run("""
        const real = window.fetch;
        window.fetch = (...asked) => new Promise((go) => setTimeout(() => go(real(...asked)), 150));
    """)
    browser.press("j", "1", "j", "1", "j", "1", "j", "2", "j")
    verdicts = ["confirmed", "confirmed", "confirmed", "false alarm"]

    def are_there() -> bool | None:
        return all(verdict in state(browser, i) for i, verdict in zip(ids, verdicts, strict=False)) or None

    browser.until(are_there, "a verdict of each")
    assert "open" in state(browser, ids[4])
    assert marked(browser) == ids[4]
    assert picked(browser) == []


def test_what_never_arrived_is_still_selected(browser: Browser, ids: list[str]) -> None:
    browser.press("j", "x", "j", "x")
    browser.run("window.fetch = () => Promise.reject(new TypeError('gone'))")
    browser.press("1")
    says(browser, TOAST, "does not answer")
    assert picked(browser) == ids[:2]
    browser.errors()


def test_undo_waits_ten_seconds(browser: Browser, ids: list[str]) -> None:
    del ids
    browser.run("""
        const real = window.setInterval;
        window.setInterval = (run, ms) => real(run, ms / 20);
    """)
    browser.press("j", "1")
    said = says(browser, TOAST, "Undo")
    assert int(re.findall(r"\d+", said)[-1]) in range(1, 11)
    browser.until(lambda: not browser.all(".toast") or None, "the end of the toast")
    browser.press("u")
    assert not browser.all(".toast")


def test_case_work_by_keys(browser: Browser, served: LiveDesk, ids: list[str]) -> None:
    def did(key: str, words: str, then: str) -> None:
        browser.press(key)
        says(browser, TOAST, words)
        browser.until(lambda: then in state(browser, ids[0]) or None, f"{then} in the row")

    browser.press("j")
    did("a", "1 yours now", "yours")
    did("u", "1 released", "open")
    did("a", "1 yours now", "yours")
    did("a", "1 released", "open")
    did("s", "1 on hold", "on hold until")
    browser.press("u")
    browser.until(lambda: "on hold" not in state(browser, ids[0]) or None, "the end of the hold")
    did("e", "1 escalated", "escalated")
    browser.run("document.getElementById('hand-to').value = 'ben'")
    browser.click("#bulk-hand_over")
    says(browser, TOAST, "1 handed over")
    browser.until(lambda: "ben" in state(browser, ids[0]) or None, "the new owner")
    browser.press("a")
    said = says(browser, TOAST, "1 refused")
    assert "ben has claimed it" in said
    assert picked(browser) == [ids[0]]  # what was refused stays selected


def test_many_are_told_by_kind(browser: Browser, served: LiveDesk, ids: list[str]) -> None:
    served.others("ben", "work", ids[1:3], action="claim")
    browser.until(lambda: "ben" in state(browser, ids[2]) or None, "the claims of another in the rows")
    browser.click("#select-all")
    browser.press("a")
    said = says(browser, TOAST, "3 yours now")
    assert "2 refused: ben has claimed it" in said
    assert picked(browser) == ids[1:3]
    browser.press("u")
    says(browser, TOAST, "3 released")


def test_a_row_that_another_judged_is_marked_in_place(browser: Browser, served: LiveDesk, ids: list[str]) -> None:
    browser.press("j", "j", "x")
    served.others("ben", "verdict", [ids[0], ids[1]], verdict="confirmed")
    browser.until(lambda: "confirmed" in state(browser, ids[1]) or None, "the verdict of another")
    assert "by ben" in state(browser, ids[0])
    assert listed(browser) == ids
    assert marked(browser) == ids[1]
    assert picked(browser) == [ids[1]]


def test_what_comes_is_counted_and_loaded_on_request(browser: Browser, served: LiveDesk, ids: list[str]) -> None:
    word = ids[0].split(":")[1].split("-")[0]
    browser.press("j", "j")
    more = [
        alert(n, amount=1000.0 + n, entity_id=f"{word}-{n}", alert_id=f"fraud:{word}-{n}:e", event_ids=(f"{word}{n}",))
        for n in (7, 8)
    ]
    served.arrive([*more, alert(999, entity_id="another", alert_id=f"fraud:another-{word}:e")])
    assert says(browser, "#new", "new").startswith("2 new")
    assert listed(browser) == ids
    assert marked(browser) == ids[1]
    browser.press(".")
    browser.until(lambda: len(listed(browser)) == 7 or None, "7 rows")
    assert listed(browser) == [f"fraud:{word}-8:e", f"fraud:{word}-7:e", *ids]
    assert not browser.all("#new-link")
    assert browser.until(lambda: marked(browser), "a row with the focus") == ids[1]


def test_the_rest_of_the_keys(browser: Browser, served: LiveDesk, ids: list[str]) -> None:
    browser.press("?")
    assert browser.one("#help").is_displayed()
    told = {kbd.text for kbd in browser.all("#help kbd")}
    asked = {e.get_attribute("data-key") or "" for e in browser.all("main [data-key]")}
    assert {key.removeprefix("shift-") for key in asked} - set("5678") <= told  # "4 to 9"
    assert {"j", "k", "x", "Enter", ".", "/", "?", "g", "u"} <= told
    assert browser.violations() == []
    browser.press(Keys.ESCAPE)
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "search"
    browser.press("j", "1")  # in a field they are letters
    assert browser.run("return document.getElementById('search').value") == "j1"
    browser.press(Keys.ESCAPE)
    assert not browser.all(".toast")
    browser.press("1")
    says(browser, TOAST, "Select alerts first")
    browser.press("n")
    browser.until(lambda: browser.path.startswith("/console/alerts/") or None, "the next alert")
    assert ids[0].split(":")[1] in browser.path
    browser.settle()
    browser.errors()


def test_g_and_a_letter_go_to_another_page(browser: Browser, ids: list[str]) -> None:
    del ids
    browser.press("g", "a")
    browser.until(lambda: browser.path == "/console/alerts" or None, "the list")
    browser.settle()
    going = [link.get_attribute("data-go") for link in browser.all("[data-go]")]
    assert len(set(going)) == len(going)


def test_hostile_text_is_text_and_breaks_nothing(browser: Browser, served: LiveDesk) -> None:
    nasty = "<script>document.title='x'</script>\u05d0\u05d1" + "w" * 20
    served.arrive([alert(0, entity_id=nasty, alert_id=f"fraud:{nasty}:e0", amount=5e5)])
    browser.open("/console/alerts?q=%3Cscript")
    browser.press("j", "x")
    assert browser.run("return document.title") == "Alerts · Weir"
    browser.run("document.getElementById('note').value = arguments[0]", "<b>" + "m" * 1900)
    browser.press("2")
    says(browser, TOAST, "1 marked as false alarm")
    assert "false alarm" in state(browser, f"fraud:{nasty}:e0")
    for width in (1280, 390):
        browser.size(width)
        assert browser.too_wide() == []
    assert browser.violations() == []


def test_nothing_to_do_says_what_to_do(browser: Browser, served: LiveDesk) -> None:
    browser.open("/console/alerts?q=nothing-has-this")
    assert "Show what waits for you" in browser.text("#list .empty")
    browser.press("j", "x", ".")
    assert browser.violations() == []
