"""A receiver of messages: a real HTTP server on loopback that can be killed and comes back at the same address."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import msgspec

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Receiver:
    """``answers`` gives the status of each request; 204 without."""

    def __init__(self, answers: Callable[[Request], int] = lambda _: 204) -> None:
        self.got: list[Request] = []
        self.came = threading.Condition()
        self._answers = answers
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(size := int(self.headers["content-length"]))
                if len(body) < size:
                    return  # who sent it was killed in the middle
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                status = receiver._answers(request)
                with receiver.came:
                    receiver.got.append(request)
                    receiver.came.notify_all()
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                if status == 429:
                    self.send_header("retry-after", "7")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def wait(self, n: int) -> list[Request]:
        """The first ``n`` requests, once they have come."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.got) >= n, 60), [request.json for request in self.got]
            return self.got[:n]
