"""Pictures of every page, light and dark, from a service filled as for the tests; ``make screenshots`` runs it.

The one argument is the directory to write to; what is seen of each without scrolling comes into ``first`` in it.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import get_args

from tests.console import browser as browsers
from tests.console.browser import Browser, Theme
from tests.console.pages import PAGES, TRAINED, find
from tests.console.simulated import filled, work
from tests.integration.kafka_broker import eventually
from tests.integration.serve_process import TOKEN
from weir.streams.client.client import Client


def main(out: Path) -> None:
    """Take them."""
    (out / "first").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder)) as served, closing(browsers.start()) as browser:
        with Client(served.url, TOKEN) as client:
            work(client)
            eventually(lambda: client.get("/v1/models")["models"], 60, "a trained model")
        browser.base = served.url
        browser.size(height=800)
        browser.open(f"/?token={TOKEN}")
        for name in PAGES | TRAINED:
            path = find(browser, name)
            for theme in get_args(Theme):
                take(browser, path, theme, out / f"{name.replace(' ', '-')}-{theme}.png")
        browser.size(390, 844)
        for name in {"alerts", "alert"} & PAGES.keys():
            take(browser, find(browser, name), "light", out / f"{name}-phone.png")


def take(browser: Browser, path: str, theme: Theme, to: Path) -> None:
    """One of them."""
    browser.prefer(theme)
    browser.open(path)
    browser.picture(to)
    browser.picture(to.parent / "first" / to.name, most=800)
    print(f"{to.stat().st_size:>9,} {to}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
