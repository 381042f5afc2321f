"""``/health``, ``/ready`` and ``/metrics`` of a worker or a trainer, served in its own event loop.

``/health`` answers while the loop turns: an orchestrator may restart what does not answer. ``/ready`` answers 200 only
while the worker does its work, else 503 with the reasons. ``/metrics`` is for Prometheus. No endpoint changes anything.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol, Self

import orjson
from aiohttp import web

from weir.streams.errors import UsageError
from weir.streams.ops.exposition import CONTENT_TYPE, Exposition
from weir.streams.ops.metric_registry import Registry


class Status(Protocol):
    """Answers at once, without waiting for anything."""

    def ready(self) -> list[str]:
        """Why the worker does not do its work yet, a sentence each; empty when it does."""

    def describe(self) -> Mapping[str, object]:
        """What it is and does, as JSON can hold it: lanes, models, partitions."""


class WebServer:
    """The endpoints of one worker.

    Parameters
    ----------
    host, port : where to listen; port 0 takes a free one, see `url`.
    status : the worker.
    registry : its metrics.
    about : what `/health` says besides uptime and version; ``role`` and ``worker`` are labels of ``weir_info`` too.
    table : of the settings, where the address was given.
    """

    def __init__(
        self,
        host: str,
        port: int,
        status: Status,
        registry: Registry,
        about: Mapping[str, object] | None = None,
        table: str = "worker",
    ) -> None:
        self.host, self.port, self._table = host, port, table
        self._status, self._registry, self._about = status, registry, dict(about or {})
        self._exposition = Exposition(registry)
        role, worker = (str(self._about.get(name, "")) for name in ("role", "worker"))
        registry.set("weir_info", 1, version=version("weir"), role=role, worker=worker)
        self._started = time.monotonic()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens; after `start` with the port that was taken."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Begin to listen; raises ``UsageError`` when the address cannot be had."""
        app = web.Application()
        for path, handler in (("/health", self._health), ("/ready", self._ready), ("/metrics", self._metrics)):
            app.router.add_get(path, handler)
        # Probes come every few seconds and would fill the log.
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self.host, self.port)
        try:
            await site.start()
        except OSError as exc:
            await runner.cleanup()
            raise UsageError(_why(self._table, self.host, self.port, exc)) from exc
        self._runner = runner
        # Port 0 is known only now.
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; may be called more than once."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _health(self, _: web.Request) -> web.Response:
        uptime = round(time.monotonic() - self._started, 3)
        return _json({"status": "alive", "uptime_s": uptime, "version": version("weir"), **self._about})

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._status.ready()
        self._registry.set("weir_ready", not reasons)
        document = {"ready": not reasons, "reasons": reasons, **self._status.describe()}
        return _json(document, 503 if reasons else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        self._registry.set("weir_ready", not self._status.ready())
        return web.Response(body=self._exposition.render(), headers={"Content-Type": CONTENT_TYPE})


def _json(document: Mapping[str, object], status: int = 200) -> web.Response:
    # Whatever lanes say of themselves: a probe must not fail for a number of NumPy, or a key that is no text.
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)
    return web.Response(body=body, status=status, content_type="application/json")


def _why(table: str, host: str, port: int, exc: OSError) -> str:
    where = f"[{table}] web_host = {host!r}, web_port = {port}"
    if exc.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; stop what listens there, give another web_port (or --web), or 'auto'"
    if exc.errno == errno.EACCES:
        return f"{where}: this user may not listen on that port; give one above 1023"
    return f"{where}: cannot listen there ({exc.strerror or exc}); give an address of this machine, or 0.0.0.0 for all"
