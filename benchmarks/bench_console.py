"""The console of ``weir serve`` with many alerts in its store, on loopback, while new alerts arrive.

Every event of the task alerts, each of another user: the store is filled as it would be, by the service itself, and all
of it is open. Measured: the whole HTML of each page and the time until its last byte, what a browser fetches for a page
with an empty cache (compressed as it comes), a verdict on one and on fifty alerts by the page's form, and the count
of what is new. Times are medians and worst of all tries; other load on the machine is in them.

Run: ``python -m benchmarks.bench_console [--alerts 100000] [--rate 50] [--tries 15]``. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import quote, urlencode

from benchmarks.bench_embedded import TASK
from benchmarks.bench_serve import BODY, TOKEN, ingest, started
from weir.streams.service.console.rendering import PLACES

PAGE_TARGET_MS, INTERACTION_TARGET_MS, WEIGHT_TARGET = 300.0, 100.0, 200_000
ALERTS: Final = """
[threshold]
kind = "fixed"
value = 0.0
[alerts]
resolve_after_s = "365d"
max_open = 1000000
"""


HTMX: Final = {"HX-Request": "true"}


class Browser:
    """One connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._link = HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(
        self, path: str, form: list[tuple[str, str]] | None = None, headers: Mapping[str, str] = HTMX
    ) -> tuple[bytes, float]:
        """The answer's body and the milliseconds until its last byte; ends the benchmark where it is none."""
        known = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html", **headers}
        body = None if form is None else urlencode(form)
        if form is not None:
            known["Content-Type"] = "application/x-www-form-urlencoded"
        began = time.perf_counter()
        self._link.request("GET" if form is None else "POST", path, body, known)
        answer = self._link.getresponse()
        read = answer.read()
        took = (time.perf_counter() - began) * 1e3
        if answer.status != 200:
            raise SystemExit(f"error: {path}: {answer.status} {read[:400]!r}")
        return read, took


def serve(port: int, folder: Path) -> list[str]:
    """``weir serve`` of the task that always alerts."""
    (folder / "task.toml").write_text(TASK.partition("[threshold]")[0] + ALERTS)
    (folder / "weir.toml").write_text(
        f'[serve]\ndirectory = "{folder}/data"\n[serve.access]\ntoken = "{TOKEN}"\nrecords_per_s = 1e9\n'
        'requests_per_s = 1e9\n[worker.intake]\nallowed_lateness = "60d"\n'
    )
    command = [sys.executable, "-m", "weir.streams.cli.main", "serve", str(folder / "task.toml")]
    return [*command, "--config", str(folder / "weir.toml"), "--port", str(port), "--log-level", "warning"]


def event(n: int, ts: float) -> bytes:
    """One event, of a user that nobody saw before."""
    amount = 5.0 + n * 7919 % 10_007 / 10.0
    facts = {"v": 1, "event_id": f"e{n:08d}", "type": "purchase", "user_id": f"user-{n:08d}", "ts": ts}
    return json.dumps({**facts, "amount": amount, "merchant_id": f"m{n % 997}"}).encode()


def fill(port: int, alerts: int) -> float:
    """Send as many events, and wait until the store has their alerts; seconds that took."""
    began, now = time.perf_counter(), time.time()
    lines = [event(n, now - 5.0 * (alerts - n)) for n in range(alerts)]
    asyncio.run(ingest(port, [b"\n".join(lines[at : at + BODY]) for at in range(0, alerts, BODY)]))
    browser, last = Browser(port), f"/v1/alerts?q=user-{alerts - 1:08d}"
    while not json.loads(browser.ask(last)[0])["alerts"]:
        time.sleep(0.2)
    return time.perf_counter() - began


class Arrivals:
    """New alerts while it is measured, ten bodies a second."""

    def __init__(self, port: int, first: int, rate: float) -> None:
        self._port, self._next, self._rate, self._over = port, first, rate, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        browser, count = Browser(self._port), max(round(self._rate / 10), 1)
        while not self._over.wait(count / self._rate if self._rate else None):
            body = b"[" + b",".join(event(self._next + i, time.time()) for i in range(count)) + b"]"
            self._next += count
            browser._link.request("POST", "/v1/events", body, {
                "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json",
            })  # fmt: skip
            browser._link.getresponse().read()


def times_of(name: str, tries: int, once: Callable[[], float], target: float) -> dict[str, float]:
    """Median and worst of some tries, ms; the first is not counted."""
    once()
    found = [once() for _ in range(tries)]
    print(f"{name:<34} median {median(found):8.1f} ms   worst {max(found):8.1f} ms   (goal {target:g} ms)")
    return {"median_ms": round(median(found), 2), "worst_ms": round(max(found), 2)}


def weight_of(browser: Browser, page: bytes) -> tuple[int, int]:
    """Bytes of a page's HTML, and of what it makes a browser fetch with an empty cache."""
    text = page.decode()
    files = set(re.findall(r'(?:src|href)="(/console/assets/[^"#]+)', text))
    fetched = 0
    while files:
        address = files.pop()
        raw, _ = browser.ask(address, headers={"Accept-Encoding": "gzip"})
        fetched += len(raw)
        if address.endswith(".js") and "/js/" in address:  # modules name others
            source = browser.ask(address)[0].decode()
            base = address.rsplit("/", 1)[0]
            files |= {f"{base}/{name}" for name in re.findall(r'from "\./([^"]+)"', source)}
    return len(page), fetched


def measure(port: int, alerts: int, rate: float, tries: int) -> dict[str, Any]:
    """Everything, while alerts arrive."""
    browser = Browser(port)
    found: dict[str, Any] = {"fill_s": round(fill(port, alerts), 1)}
    print(f"{alerts:,} open alerts in the store ({found['fill_s']} s), {rate:g} more a second")
    with Arrivals(port, alerts, rate):
        row = json.loads(browser.ask("/v1/alerts?limit=1&sort=expected_loss")[0])["alerts"][0]
        pages = {place.name: place.path for place in PLACES}
        pages |= {"Alerts, searched": "/console/alerts?q=amount", "Alerts, everything": "/console/alerts?show=any"}
        pages["An alert"] = f"/console/alerts/{quote(row['alert_id'], safe='')}"
        found["pages"] = {
            name: times_of(f"page {name}", tries, lambda path=path: browser.ask(path, headers={})[1], PAGE_TARGET_MS)  # type: ignore[misc]
            for name, path in pages.items()
        }
        page, _ = browser.ask("/console/alerts")
        found["html_bytes"], found["asset_bytes"] = weight_of(browser, page)
        weight = found["html_bytes"] + found["asset_bytes"]
        print(f"page Alerts: {found['html_bytes']:,} bytes of HTML, {found['asset_bytes']:,} of files")
        print(f"page Alerts: {weight:,} bytes in all (goal {WEIGHT_TARGET:,})")
        found["interactions"] = interactions(browser, page.decode(), tries)
    return found


def interactions(browser: Browser, page: str, tries: int) -> dict[str, dict[str, float]]:
    """What a person does on the page, each time with alerts that nobody has touched."""
    ids = [html.unescape(i) for i in re.findall(r'<tr id="row-\w+" data-id="([^"]+)"', page)]

    def address(part: str) -> str:
        match = re.search(rf'{part}[^>]*hx-get="([^"]+)"', page)
        assert match is not None
        return html.unescape(match[1])

    def judge(count: int) -> float:
        chosen = [("alert_ids", ids[i]) for i in range(count)]
        _, took = browser.ask("/console/alerts/verdict", [*chosen, ("verdict", "confirmed")])
        browser.ask("/console/alerts/undo", chosen)
        return took

    asked: dict[str, Callable[[], float]] = {
        "what is new": lambda: browser.ask(address('id="new"'))[1],
        "50 more": lambda: browser.ask(address('id="more-link"'))[1],
        "a verdict": lambda: judge(1),
        "a verdict on 50": lambda: judge(50),
        "rows that others changed": lambda: browser.ask(
            "/console/alerts/rows?" + urlencode([("alert_id", i) for i in ids[:20]]))[1],
    }  # fmt: skip
    return {name: times_of(name, tries, once, INTERACTION_TARGET_MS) for name, once in asked.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alerts", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50.0, help="new alerts a second meanwhile")
    parser.add_argument("--tries", type=int, default=15)
    args = parser.parse_args()
    with started(serve) as port:
        found = measure(port, args.alerts, args.rate, args.tries)
    print(json.dumps({"benchmark": "console", "alerts": args.alerts, "rate": args.rate, **found}))


if __name__ == "__main__":
    main()
