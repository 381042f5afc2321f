"""No caller waits for a compiler: what a service computes with is compiled, or loaded, before it is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.running import TASKS

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, json, sys
from pathlib import Path

from tests.service.running import running
from weir.streams.simulate import SimulationConfig, simulate

LINES = "application/x-ndjson"
WORLD = SimulationConfig(
    seed=1, users=300, merchants=40, devices=12, days=12, events=6_000, fraud_share=0.05, label_delay_days=1.0,
    churn_share=0.6, days_between_failures=4.0, device_event_share=0.3, block_s=86_400.0,
)

async def main(task):
    async with running(Path(sys.argv[1]), task, serve={"access": {"open": True}}) as (service, client):
        print("ready", flush=True)
        for block in simulate(WORLD):
            for topic, records in block.topics.items():
                own = [value for _, value, _ in records if topic != "labels" or json.loads(value)["task"] == task]
                body = b"\\n".join(own)
                path = "labels" if topic == "labels" else "events"
                if body:
                    done = await client.post(f"/v1/{path}", content=body, headers={"Content-Type": LINES})
                    assert done.status_code < 300, done.text
        print("events", service.serving.describe()["events"], flush=True)

asyncio.run(main(sys.argv[2]))
"""


@pytest.mark.parametrize("task", sorted(path.stem for path in TASKS.glob("*.toml")))
def test_nothing_is_compiled_or_loaded_after_ready(task: str, tmp_path: Path) -> None:
    command, env = [sys.executable, "-u", "-c", PROGRAM, str(tmp_path), task], {**os.environ, "NUMBA_DEBUG_CACHE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("ready\n")
    assert "[cache] " in before
    assert "events " in after
    late = [line.rpartition("/")[2] for line in after.splitlines() if line.startswith("[cache] ")]
    assert late == []
