"""``weir serve`` trains a full model in a child beside it: killed in the middle of it with -9, it goes on and swaps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kafka_broker import eventually
from tests.integration.test_serve_kill import TOKEN, Served
from tests.service.test_engine_trainer import BLOCKS, HALF
from tests.streams.test_trainer_embedded import TASK
from weir.streams.client.client import Client
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def send(client: Client, blocks: list[Any]) -> None:
    for block in blocks:
        for topic, records in block:
            (client.send_labels if topic == topics.LABELS else client.send_events)([r.value for r in records])


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_a_training_goes_on_after_a_kill_and_its_model_serves(tmp_path: Path) -> None:
    served = Served(tmp_path, {"fraud": TASK})
    served.start()
    with Client(served.url, TOKEN) as client:

        def job() -> dict[str, Any]:
            jobs: list[dict[str, Any]] = client.get("/v1/retraining")["jobs"]
            return jobs[0] if jobs else {}

        send(client, BLOCKS[:HALF])
        client.retrain("fraud", "a test")
        eventually(lambda: children(served.pid), 60, "a child trains")
        trains = children(served.pid)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in trains), 30, "the child ends with it")
        served.start()
        eventually(lambda: job().get("stage") == "shadowing", 120, f"the shadow: {served.log.read_text()}")
        send(client, BLOCKS[HALF:])
        eventually(lambda: job()["stage"] == "promoted", 60, f"the promotion: {served.log.read_text()}")
        (model,) = client.get("/v1/models")["models"]
        assert (model["stage"], model["version"]) == ("champion", 1)
    assert served.end(signal.SIGTERM) == 0
    assert "task fraud: full model champion 1" in served.log.read_text()
