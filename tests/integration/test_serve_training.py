"""``weir serve`` trains a full model in a child beside it: killed in the middle of it with -9, it goes on and swaps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kafka_broker import eventually
from tests.integration.serve_process import TOKEN, Served
from tests.service.test_engine_trainer import BLOCKS, HALF
from tests.streams.test_trainer_embedded import TASK
from weir.streams.client.client import Client
from weir.streams.config import topics

pytestmark = pytest.mark.integration


def send(client: Client, blocks: list[Any]) -> None:
    for block in blocks:
        for topic, records in block:
            taken = (client.send_labels if topic == topics.LABELS else client.send_events)(
                b"\n".join(r.value for r in records)
            )
            assert taken.accepted


def trainings(pid: int) -> list[int]:
    """Processes that train for a service."""
    listed = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    children = [int(child) for each in listed for child in each.read_text().split()]
    return [child for child in children if b"job_runner" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_a_training_goes_on_after_a_kill_and_its_model_serves(tmp_path: Path) -> None:
    with Served(tmp_path, {"fraud": TASK}) as served:
        trains(served)


def trains(served: Served) -> None:
    served.start()
    with Client(served.url, TOKEN) as client:

        def job() -> dict[str, Any]:
            jobs: list[dict[str, Any]] = client.get("/v1/retraining")["jobs"]
            return jobs[0] if jobs else {}

        send(client, BLOCKS[:HALF])
        client.retrain("fraud", "a test")
        eventually(lambda: trainings(served.pid), 60, "a child trains")
        at_work = trainings(served.pid)
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in at_work), 30, "the child ends with it")
        served.start()
        eventually(lambda: job().get("stage") == "shadowing", 120, f"the shadow: {served.log.read_text()}")
        send(client, BLOCKS[HALF:])
        eventually(lambda: job()["stage"] == "promoted", 60, f"the promotion: {served.log.read_text()}")
        # The decision is noted first and told after that.
        eventually(lambda: client.get("/v1/models")["models"][0]["stage"] == "champion", 30, "the champion")
        eventually(lambda: "task fraud: full model version 1" in served.log.read_text(), 30, "the swap")
    assert served.end(signal.SIGTERM) == 0
