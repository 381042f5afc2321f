"""A headless chromium that is looked at as a person would, and by axe. It knows neither the service nor its pages."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.kafka_broker import unavailable

Theme = Literal["light", "dark"]
_T = TypeVar("_T")
_AXE: Final = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
_RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_WAIT_S: Final = 15.0
_ARGUMENTS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--no-first-run", "--lang=en-GB",
    "--force-color-profile=srgb", "--window-size=1280,900",
)  # fmt: skip
_SETTLED: Final = """
const done = arguments[0];
const look = () => {
  const busy = document.readyState !== "complete" || document.querySelector(".htmx-request, [aria-busy=true]");
  if (busy) setTimeout(look, 20); else requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
};
look();
"""
"""Ends when the page is whole: its fragments that come after it, too."""


def start() -> Browser:
    """A browser; skips the test where there is none, and fails it where integration tests are required."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        unavailable("no browser for the console's tests: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = str(binary)
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The path is given, or Selenium would look for a driver elsewhere.
    chrome = webdriver.Chrome(options=options, service=Service(str(driver), env={**os.environ, "TZ": "UTC"}))
    chrome.set_script_timeout(60)
    chrome.set_page_load_timeout(60)
    return Browser(chrome)


class Browser:
    """One window.

    Parameters
    ----------
    driver : of the browser; ended by ``close``.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.base = ""
        """The address before every path."""

    # -- going somewhere ----------------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        """Go to a path, and wait until the page is whole."""
        self.driver.get(self.base + path)
        self.settle()

    def settle(self) -> None:
        """Wait until the page and its fragments are there."""
        self.driver.execute_async_script(_SETTLED)

    def header(self, name: str, value: str) -> None:
        """Send a header with every request from now on: who has no cookie signs on by ``Authorization``."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {name: value}})

    def prefer(self, theme: Theme) -> None:
        """The system's colours, as pages see them."""
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def size(self, width: int = 1280, height: int = 900, zoom: float = 1.0) -> None:
        """The window in CSS pixels at 100 %; at a zoom of 2 half as many of them fit."""
        shown = {"width": round(width / zoom), "height": round(height / zoom), "deviceScaleFactor": zoom}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**shown, "mobile": False})
        self.settle()

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Where it is, without the address of the service."""
        return self.driver.current_url.removeprefix(self.base)

    def all(self, css: str) -> list[WebElement]:
        """Every element that matches."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """The first element that matches, as soon as there is one."""
        return self.until(lambda: next(iter(self.all(css)), None), f"an element {css}")

    def text(self, css: str) -> str:
        """What the first element that matches says."""
        return self.until(lambda: self.one(css).text or None, f"text in {css}")

    def until(self, there: Callable[[], _T | None], what: str) -> _T:
        """Wait for something; an element that a swap replaced meanwhile is looked for again."""
        wait = WebDriverWait(self.driver, _WAIT_S, 0.05, ignored_exceptions=[StaleElementReferenceException])
        found = wait.until(lambda _: there(), f"{what} did not come at {self.path}")
        assert found is not None  # it waits for what is true
        return found

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script gives."""
        return self.driver.execute_script(script, *arguments)

    # -- doing --------------------------------------------------------------------------------------------------------

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        actions = ActionChains(self.driver, duration=0)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    def click(self, css: str) -> None:
        """Click the first element that matches."""
        self.one(css).click()

    def link(self, words: str) -> WebElement:
        """The link or button that says so."""
        say = f"//*[self::a or self::button][contains(normalize-space(), {json.dumps(words)})]"
        return self.until(lambda: next(iter(self.driver.find_elements(By.XPATH, say)), None), f"a link {words!r}")

    # -- judging ------------------------------------------------------------------------------------------------------

    def violations(self, within: str = "html") -> list[str]:
        """What axe finds: the rule, what it says, and the elements. Empty where all is well."""
        if not self.run("return Boolean(window.axe)"):
            self.run(_AXE.read_text())
        found: Sequence[dict[str, Any]] = self.driver.execute_async_script(
            "const [within, tags, done] = arguments;"
            "axe.run(within, {runOnly: tags, resultTypes: ['violations']}).then((r) => done(r.violations),"
            " (e) => done([{id: 'axe', help: String(e), nodes: []}]));",
            within, _RULES,
        )  # fmt: skip
        return [f"{v['id']}: {v['help']}: {[node['html'][:200] for node in v['nodes'][:5]]}" for v in found]

    def too_wide(self) -> list[str]:
        """The elements because of which the page is wider than the window; empty where it is not."""
        found: list[str] = self.run("""
            const room = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= room) return [];
            const held = (e) => e.closest(".scroll, pre, dialog:not([open]), .sr") !== null;
            const wide = [...document.body.querySelectorAll("*")].filter(
                (e) => e.getBoundingClientRect().right > room + 1 && !held(e));
            const told = wide.slice(0, 6).map((e) => e.outerHTML.slice(0, 160));
            return [`${document.documentElement.scrollWidth} > ${room}`, ...told];
        """)
        return found

    def loaded(self) -> dict[str, int]:
        """What the page loaded: bytes as they came, by address; what the browser had already counts too."""
        found: dict[str, int] = self.run("""
            const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
            return Object.fromEntries(all.map((e) => [e.name, e.encodedBodySize]));
        """)
        return found

    def errors(self) -> list[str]:
        """Errors of the browser's console since the last call: scripts that failed, what the policy refused."""
        lines: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def picture(self, path: Path, most: int = 3_000) -> None:
        """Save the page as PNG, at most so many pixels of its height."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, most), "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
