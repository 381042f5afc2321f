"""What a worker compiles before it joins its group: everything, for any kind of task and model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path

from online.drift import DriftPolicy
from online.learners import LearnerSpec
from streams.demo import warmup
from streams.taskfiles import load_task
from streams.worker.warmup import warm_up, warm_up_records

path, *kinds = sys.argv[1:]
task = load_task(Path(path))
if kinds:
    model = LearnerSpec(kind=kinds[0], members=tuple(LearnerSpec(kind=kind) for kind in kinds[1:]))
    task = task.model_copy(update={"model": model, "drift": DriftPolicy(block_events=8)})
warm_up_records()
warm_up(task)
print("warm", flush=True)
warmup.warm_up([task])  # 12,000 events, with labels
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("churn",),
        ("churn", "boosted"),
        ("device_failure", "adaptive_forest"),
        ("fraud", "stack", "logistic", "boosted"),
    ],
    ids="-".join,
)
def test_nothing_is_compiled_or_read_from_disk_after_it(arguments: tuple[str, ...]) -> None:
    task, *kinds = arguments
    path = ROOT / "streams" / "demo" / "tasks" / f"{task}.toml"
    ended = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM, str(path), *kinds],
        cwd=ROOT, env={**os.environ, "NUMBA_DEBUG_CACHE": "1"}, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    before, after = ended.stdout.split("warm\n")
    assert "[cache] " in before
    assert [line for line in after.splitlines() if line.startswith("[cache] ")] == []
