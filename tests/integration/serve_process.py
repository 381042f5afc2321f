"""``weir serve`` as a process of its own, in a directory of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.integration.forked import Process, start
from tests.integration.kafka_broker import REPOSITORY
from weir.streams.service.run import listening

TOKEN = "t" * 40


class Served:
    """``weir serve`` as a process that is killed and started again."""

    def __init__(self, folder: Path, tasks: Mapping[str, str]) -> None:
        self.directory = folder / "data"
        self._folder = folder
        self._process: Process | None = None
        self._files = [f"{name}.toml" for name in tasks]
        for name, text in tasks.items():
            (folder / f"{name}.toml").write_text(text)
        with listening("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.up = threading.Event()
        self.starts = 0

    def start(self, *options: str) -> None:
        self.log = log = self._folder / f"serve-{self.starts}.log"
        self.starts += 1
        command = [sys.executable, "-m", "weir.streams.cli.main", "serve", *self._files]
        command += ["--port", str(self.port), *options]
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "WEIR_SERVE__ACCESS__TOKEN": TOKEN,
            "WEIR_SERVE__DIRECTORY": str(self.directory), "WEIR_SERVE__CHECKPOINT_EVERY_S": "1.5",
        }  # fmt: skip
        with log.open("wb") as file:
            self._process = start(command, environment, file, self._folder)
        while "ready: " not in log.read_text():
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.02)
        self.up.set()

    def ensure(self) -> None:
        """Start it again after a test that ended it and failed; fail where it ended by itself."""
        if not self.up.is_set():
            self.start()
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def end(self, how: signal.Signals) -> int:
        """Send the signal; the exit status."""
        assert self._process is not None
        self.up.clear()
        self._process.send_signal(how)
        return self._process.wait(30)
