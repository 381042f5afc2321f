"""What the full model costs on one CPU thread: a step, a scored batch with its state, a rebuilt state, a replay.

Two graphs: a bare GRU cell of 64 (the reference that the plan's 0.95 us was measured on) and the real encoder, both of
27 inputs with random weights. Time is CPU time of this one-threaded process, the shortest of several means, so that
other load on the machine weighs less.

Run: ``OMP_NUM_THREADS=1 python -m benchmarks.bench_inference [--repeats 7]``. Prints a table and then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu_inference import HIDDEN, INPUTS, draw, encoder_of, graph_of
from weir.models.serving.active_models import Pair
from weir.models.serving.entity_steps import replay
from weir.models.serving.model_runner import FullRunner
from weir.models.serving.ort_model import BUCKETS, OrtModel
from weir.models.serving.session import open_session
from weir.models.serving.state_row import StateLayout
from weir.models.types import History
from weir.online.task.full_spec import FullSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore

BATCH = 512
TARGET_US = 2.0
"""Of a step of the encoder, per event, at a batch of 512."""
NAMES = tuple(f"x{k}" for k in range(INPUTS))


def gru_graph(inputs: int = INPUTS, hidden: int = HIDDEN) -> bytes:
    """A GRU cell and a linear head, nothing else."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"wi": (inputs, 3 * hidden), "bi": (3 * hidden,), "wh": (hidden, 3 * hidden), "bh": (3 * hidden,)}
    shapes |= {"wo": (hidden, 1), "bo": (1,)}
    held: list[Any] = [
        numpy_helper.from_array((rng.normal(size=s) / np.sqrt(s[0])).astype(np.float32), k) for k, s in shapes.items()
    ]
    held += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (("flat", [-1]), ("cut", [hidden] * 3))]
    axis = helper.make_attribute("axis", 1)
    nodes = [
        helper.make_node(op, takes.split(), gives.split())
        for op, takes, gives in (
            ("Gemm", "x wi bi", "gi"), ("Gemm", "state wh bh", "gh"), ("Split", "gi cut", "ir iz in"),
            ("Split", "gh cut", "hr hz hn"), ("Add", "ir hr", "ar"), ("Sigmoid", "ar", "r"), ("Add", "iz hz", "az"),
            ("Sigmoid", "az", "z"), ("Mul", "r hn", "rh"), ("Add", "in rh", "an"), ("Tanh", "an", "nn"),
            ("Sub", "state nn", "d"), ("Mul", "z d", "zd"), ("Add", "nn zd", "state_out"),
            ("Gemm", "state_out wo bo", "column"), ("Reshape", "column flat", "logit"),
        )
    ]  # fmt: skip
    for node in nodes:
        if node.op_type == "Split":
            node.attribute.append(axis)

    def value(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    takes, gives = [value("x", "n", inputs), value("state", "n", hidden)], [value("logit", "n")]
    graph = helper.make_graph(nodes, "gru", takes, [*gives, value("state_out", "n", hidden)], held)
    raw: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return raw


def cost(work: Callable[[], object], events: int, repeats: int, calls: int = 1) -> float:
    """CPU microseconds an event: the shortest of ``repeats`` means over ``calls`` calls."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(calls):
            work()
        best = min(best, (time.process_time() - start) / calls)
    return best / events * 1e6


def steps(raw: bytes, repeats: int) -> dict[str, dict[int, float]]:
    """Microseconds an event by batch size: ONNX Runtime's bare call, its bound loop, and ours."""
    model, (session, _) = OrtModel.load(raw, 1, NAMES, provider="cpu"), open_session(raw, "cpu")
    found: dict[str, dict[int, float]] = {"bare run": {}, "bare bound": {}, "OrtModel.step": {}}
    for n in BUCKETS:
        x, state = draw(n)
        calls = max(3, 20_000 // (n + 100))
        found["bare run"][n] = cost(partial(session.run, None, {"x": x, "state": state}), n, repeats, calls)
        found["bare bound"][n] = cost(_bound(session, n), n, repeats, calls)
        found["OrtModel.step"][n] = cost(partial(model.step, x, state), n, repeats, calls)
    return found


def _bound(session: Any, n: int) -> Callable[[], object]:
    """The bare loop: nothing is copied, nothing is allocated."""
    from onnxruntime import OrtValue

    x, state = draw(n)
    logit, after, binding = np.zeros(n, np.float32), np.zeros_like(state), session.io_binding()
    for name, array in (("x", x), ("state", state)):
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
    for name, array in (("logit", logit), ("state_out", after)):
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
    return lambda: session.run_with_iobinding(binding)


class Lane:
    """A runner and its store, with entities that were seen."""

    def __init__(self, history: int, entities: int) -> None:
        self.runner = FullRunner(StateLayout(HIDDEN, history, NAMES), 0, 0)
        self.store, self.entities = MemoryFeatureStore(), entities
        self.store.create("t.full", self.runner.row_bytes, self.runner.schema, FullSpec().ttl)
        self.rng, self.ts = np.random.default_rng(1), 1.7e9
        self.x = self.rng.normal(size=(BATCH, INPUTS))

    def batch(self, keys: list[str]) -> None:
        """Score one event of each key."""
        self.ts += 1.0
        self.runner.score("t.full", self.store, keys, np.full(len(keys), self.ts), self.x[: len(keys)])

    def batches(self, batches: list[list[str]]) -> None:
        """Score several."""
        for keys in batches:
            self.batch(keys)

    def fill(self, times: int) -> None:
        """Score every entity so many times."""
        for _ in range(times):
            for k in range(0, self.entities, BATCH):
                self.batch([f"u{i}" for i in range(k, min(k + BATCH, self.entities))])

    def drawn(self, skewed: bool) -> list[list[str]]:
        """Batches of keys; skewed ones name some entities often."""
        size = (20, BATCH)
        of = self.rng.zipf(1.3, size) % self.entities if skewed else self.rng.integers(0, self.entities, size)
        return [[f"u{i}" for i in row] for row in of.tolist()]


def scoring(model: OrtModel, shadow: OrtModel, repeats: int) -> dict[str, float]:
    """Microseconds an event of ``FullRunner.score`` at a batch of 512, rows in memory."""
    found: dict[str, float] = {}
    for name, pair, skewed, history in (
        ("no model, history 16", Pair(), False, 16), ("champion, history 16", Pair(model), False, 16),
        ("champion, history 32", Pair(model), False, 32), ("champion, history 16, hot keys", Pair(model), True, 16),
        ("champion and shadow, history 16", Pair(model, shadow), False, 16),
    ):  # fmt: skip
        lane = Lane(history, 20_000)
        lane.runner.slots.swap(pair)
        lane.fill(1)
        batches = lane.drawn(skewed)
        found[name] = cost(partial(lane.batches, batches), 20 * BATCH, repeats)
    return found


def rebuilding(model: OrtModel, other: OrtModel, repeats: int) -> dict[str, float]:
    """Microseconds an entity of a state rebuilt from a full ring, 512 entities together, beside a step without."""
    found: dict[str, float] = {}
    for history in (16, 32):
        lane, keys = Lane(history, BATCH), [f"u{i}" for i in range(BATCH)]
        lane.runner.slots.swap(Pair(model))
        lane.fill(history)
        plain = cost(partial(lane.batch, keys), BATCH, repeats, 5)
        best = float("inf")
        for k in range(2 * repeats):
            lane.runner.slots.swap(Pair((other, model)[k % 2]))
            start = time.process_time()
            lane.batch(keys)
            best = min(best, time.process_time() - start)
        found[f"rebuild, history {history}"] = best / BATCH * 1e6 - plain
    return found


def replaying(model: OrtModel, n: int = 1_000_000, entities: int = 5_000) -> dict[str, float]:
    """Seconds for a history of a million events."""
    rng = np.random.default_rng(2)
    nothing, codes, x = np.full(n, np.nan), np.full(n, -1, np.int64), rng.normal(size=(n, INPUTS)).astype(np.float32)
    of = rng.integers(0, entities, n)
    history = History(NAMES, [""] * n, of, np.arange(float(n)), x, nothing, codes, (), nothing, codes)
    wall, start = time.perf_counter(), time.process_time()
    replay(model, history)
    return {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall}


def show(name: str, found: dict[str, Any]) -> None:
    """The table of one graph."""
    print(f"\n{name}: step, CPU us an event by batch size")
    print(f"  {'':<16}" + "".join(f"{n:>9}" for n in BUCKETS))
    for way, by_batch in found["steps"].items():
        print(f"  {way:<16}" + "".join(f"{by_batch[n]:>9.2f}" for n in BUCKETS))
    for what, us in found["score"].items():
        print(f"  score, {what:<40} {us:>7.2f} us an event")
    for what, us in found["rebuild"].items():
        print(f"  {what:<47} {us:>7.2f} us an entity")
    print(f"  replay of 1M events of 5,000 entities: {found['replay']['cpu_s']:.2f} s of CPU")


def run(repeats: int, graphs: dict[str, bytes]) -> dict[str, Any]:
    """Everything, by graph."""
    found: dict[str, Any] = {}
    for name, raw in graphs.items():
        model, other = (OrtModel.load(raw, version, NAMES, provider="cpu") for version in (1, 2))
        found[name] = {
            "steps": steps(raw, repeats),
            "score": scoring(model, other, repeats),
            "rebuild": rebuilding(model, other, repeats),
            "replay": replaying(model),
        }
        show(name, found[name])
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("gru", "encoder"))
    options = parser.parse_args()
    make: dict[str, Callable[[], bytes]] = {"gru": gru_graph, "encoder": lambda: graph_of(encoder_of())}
    graphs = {name: build() for name, build in make.items() if options.only in (None, name)}
    found = run(options.repeats, graphs)
    print(f"\ntarget: a step of the encoder in at most {TARGET_US} us an event at a batch of {BATCH}")
    print(json.dumps({"benchmark": "inference", "inputs": INPUTS, "hidden": HIDDEN, "unit": "cpu_us", **found}))


if __name__ == "__main__":
    main()
