"""FastAPI + River + dicts: events in, decisions out, in one process and in memory.

The same protocol as ``weir serve`` and about the same work: pydantic validates, repeats get their first answer, a dozen
features come from deques, River scores and learns from labels, a fixed threshold decides, events are appended to a file
(without fsync). What it lacks: alerts with reasons, drift, late events, durability, state that survives a restart,
bounded memory of users.

Run: ``python -m benchmarks.peers.fastapi_river.service PORT FILE``
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from benchmarks.bench_embedded import PerEvent

THRESHOLD = 0.8
REMEMBERED = 100_000


class Model:
    """Everything the service knows."""

    def __init__(self, file: Path) -> None:
        self._loop = PerEvent()
        self._answers: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._file = file.open("ab", buffering=0)

    def decide(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """An answer to each event."""
        self._file.write(b"\n".join(lines) + b"\n")
        return [self._one(line) for line in lines]

    def _one(self, line: bytes) -> dict[str, Any]:
        event_id = orjson.loads(line).get("event_id", "")
        if event_id in self._answers:
            return {**self._answers[event_id], "repeat": True}
        try:
            made = orjson.loads(self._loop.event(line))
        except ValidationError as error:
            return {"status": "refused", "reason": str(error)}
        decision = "alert" if made["score"] >= THRESHOLD else "pass"
        answer = {"event_id": event_id, "score": made["score"], "threshold": THRESHOLD, "decision": decision}
        self._answers[event_id] = answer
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return answer

    def learn(self, lines: list[bytes]) -> None:
        """Take in labels."""
        for line in lines:
            self._loop.label(line)


def make_app(model: Model) -> FastAPI:
    """The routes."""
    app = FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/decisions")
    async def decisions(request: Request) -> Response:
        answers = model.decide(_records(await request.body()))
        return Response(orjson.dumps({"results": answers}), media_type="application/json")

    @app.post("/v1/events")
    async def events(request: Request) -> dict[str, int]:
        answers = model.decide(_records(await request.body()))
        refused = sum(answer.get("status") == "refused" for answer in answers)
        return {"accepted": len(answers) - refused, "refused": refused}

    @app.post("/v1/labels")
    async def labels(request: Request) -> dict[str, int]:
        lines = _records(await request.body())
        model.learn(lines)
        return {"accepted": len(lines)}

    return app


def _records(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


if __name__ == "__main__":
    uvicorn.run(make_app(Model(Path(sys.argv[2]))), port=int(sys.argv[1]), log_level="warning", access_log=False)
