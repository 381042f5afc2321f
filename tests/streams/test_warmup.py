"""What a worker compiles before it joins its group: everything, for any kind of task and model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = (
    ("churn",),
    ("churn", "boosted"),
    ("device_failure", "adaptive_forest"),
    ("fraud", "stack", "logistic", "boosted"),
)
PROGRAM = """
import os, sys
from pathlib import Path

import numpy as np

from weir.online.drift.drift_policy import DriftPolicy
from weir.online.learners.factory import LearnerSpec
from weir.streams.demo import demo_warmup as warmup
from weir.streams.redis import stored_rows as rows
from weir.streams.task_files import load_task
from weir.streams.worker.warmup import warm_up, warm_up_links, warm_up_records

def run(path, *kinds):
    task = load_task(Path(path))
    if kinds:
        model = LearnerSpec(kind=kinds[0], members=tuple(LearnerSpec(kind=kind) for kind in kinds[1:]))
        task = task.model_copy(update={"model": model, "drift": DriftPolicy(block_events=8)})
    warm_up_records()
    warm_up_links()
    warm_up(task)
    print("warm", flush=True)
    rows.unpack_rows("t", 0, 16, [rows.encode_row(0, 0, 0.0, bytes(16))])
    rows.framed_values(np.zeros(3, rows.HEADER), np.zeros((3, 16), np.uint8))
    warmup.warm_up([task])  # 12,000 events, with labels

for case in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        run(*case.splitlines())
        print("cold", flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, case
"""


@pytest.fixture(scope="module")
def said() -> dict[tuple[str, ...], str]:
    """What each case said, in a process of its own; they are forked from one that has imported what they run."""
    tasks = ROOT / "streams" / "demo" / "tasks"
    cases = ["\n".join((str(tasks / f"{task}.toml"), *kinds)) for task, *kinds in CASES]
    ended = subprocess.run(
        [sys.executable, "-u", "-c", PROGRAM, *cases],
        cwd=ROOT, env={**os.environ, "NUMBA_DEBUG_CACHE": "1"}, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return dict(zip(CASES, ended.stdout.split("cold\n")[:-1], strict=True))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_nothing_is_compiled_or_read_from_disk_after_it(
    case: tuple[str, ...], said: dict[tuple[str, ...], str]
) -> None:
    before, after = said[case].split("warm\n")
    assert "[cache] " in before
    assert [line for line in after.splitlines() if line.startswith("[cache] ")] == []


_THREADS = """
import sys, threading, types, msgspec
from weir.streams.worker.warmup import warm_up_structs
sys.setswitchinterval(1e-6)
module = sys.modules["made"] = types.ModuleType("made")
names = module.__dict__
names["msgspec"] = msgspec
for i in range(100):
    fields = "".join(f"    f{k}: 'dict[str, list[float]]'\\n" for k in range(8))
    exec(f"class I{i}(msgspec.Struct, array_like=True):\\n{fields}", names)
    exec(f"class S{i}(msgspec.Struct, array_like=True):\\n    a: 'dict[str, I{i}]'\\n    b: 'list[I{i}]'", names)
warm_up_structs()
inner = [{"x": [1.0]}] * 8
raw, start = msgspec.msgpack.encode([{"a": inner}, [inner]]), threading.Barrier(8)
def decode():
    start.wait()
    for i in range(100):
        msgspec.msgpack.decode(raw, type=names[f"S{i}"])
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_decode_structs_at_the_same_time_after_it() -> None:
    """Without it this is a segmentation fault, and so was every other restart of a worker with several lanes."""
    done = subprocess.run([sys.executable, "-c", _THREADS], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
