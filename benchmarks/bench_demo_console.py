"""What the console costs a demo: CPU seconds of its process without it, with it, and while a browser has it open.

Run: ``python -m benchmarks.bench_demo_console [--seconds 600] [--rounds 1]``. The same stream each time, as dense as
ten minutes of it are on a fast machine; the browser is a chromium, whose own cost does not count. Starts count: each
run's CPU seconds are of the whole process. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import ExitStack, closing
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.console import browser as browsers
from weir.streams.demo.demo_warmup import MOST_EVENTS

GOAL: Final = 0.15
"""Of one core, while a browser has the console open for ten minutes."""
TEN_MINUTES: Final = 600.0
PAGES: Final = ("", "/", "/alerts")
"""What a browser has open: nothing, and pages of the console."""


def demo(seconds: float, options: list[str], page: str) -> float:
    """CPU seconds of one run with a page open."""
    events = str(int(MOST_EVENTS * seconds / TEN_MINUTES))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        command = [sys.executable, "-m", "weir.streams.cli.main", "demo", "--dir", folder, "--seconds", str(seconds)]
        command += ["--events", events, "--days", "30", "--seed", "7", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if page and (found := re.search(r"Console: (http://\S+)(/\?token=\S+)", line)):
                browser = stack.enter_context(closing(browsers.start()))
                browser.base = found[1]
                browser.open(found[2])
                browser.open(f"/console{page}")
                threading.Thread(target=process.stdout.read, daemon=True).start()
                break
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"the demo ended with {process.returncode}"
        return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=TEN_MINUTES)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    ways = {"no console": (["--no-console"], ""), "console, nobody looks": (["--port", "0"], "")}
    ways |= {f"console, a browser at /console{page}": (["--port", "0"], page) for page in PAGES[1:]}
    used: dict[str, list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        for name, (options, page) in ways.items():
            used[name].append(demo(given.seconds, options, page))
    table = Table(f"a demo of {given.seconds:g} s", "CPU, s", "more, of one core")
    more = {}
    for name, values in used.items():
        more[name] = (median(values) - median(used["no console"])) / given.seconds
        table.add_row(name, f"{median(values):.1f}", f"{more[name]:.1%}")
    Console().print(table)
    worst, cpu = max(more.values()), {name: median(values) for name, values in used.items()}
    said = {"seconds": given.seconds, "cpu_s": cpu, "more_of_a_core": worst, "goal": GOAL, "met": worst <= GOAL}
    print(json.dumps({"bench": "demo_console"} | said))


if __name__ == "__main__":
    main()
