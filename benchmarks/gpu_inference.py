"""Steps a second of the encoder on a GPU, and how long a call takes: Weir's way, ONNX Runtime's own, torch.compile.

One call, under 8 minutes, with no network: ``python -m benchmarks.gpu_inference --out gpu.json`` from the checkout, on
a machine with a CUDA device, torch with CUDA, onnx, onnxscript and onnxruntime-gpu (``pip install 'weir[gpu,train]'``;
pydantic, msgspec and the rest of Weir's needs are not imported). Where CUDA or onnxruntime-gpu is missing it says so
and ends with status 2; ``--provider cpu`` runs the same on a CPU, to try the script.

The encoder is the real one (GRU of 64, 27 inputs, 8 knots), its weights drawn from a seed. Of each batch size and
precision:

====================  ================================================================================================
weir                  ``OrtModel.step``: arrays of the host in and out, as the scoring worker calls it
ort, host             ``InferenceSession.run`` with arrays of the host
ort, device           ``run_with_iobinding``, everything stays on the device: the runtime's own bare loop
torch.compile, host   the compiled module, copies to and from the device in the time
torch.compile, device the compiled module, everything stays on the device
====================  ================================================================================================

A call's time is the wall's, from the call until its results can be used. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weir.models.errors import ModelError
from weir.models.serving.ort_model import OrtModel
from weir.models.serving.session import open_session
from weir.models.types import Float32Matrix

INPUTS, HIDDEN = 27, 64
BATCHES = (128, 256, 512, 1024, 2048, 4096)
TARGET = 2e6
"""Steps a second on an H200."""
MISSING = 2
"""Exit status where there is no CUDA to measure."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One way at one batch size."""

    way: str
    precision: str
    batch: int
    steps_per_s: float
    p50_us: float
    p99_us: float
    calls: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a way is measured on."""

    encoder: Any
    graphs: dict[str, bytes]
    provider: str

    @property
    def torch_device(self) -> str:
        """What torch calls the provider."""
        return self.provider


def encoder_of(inputs: int = INPUTS, hidden: int = HIDDEN) -> Any:
    """The real encoder with weights from a seed, ready to serve."""
    import torch

    from weir.models.encoder import Encoder, EncoderConfig

    torch.manual_seed(7)
    return Encoder(EncoderConfig(tuple(f"x{k}" for k in range(inputs)), hidden)).eval()


def graph_of(encoder: Any) -> bytes:
    """Its ONNX graph."""
    from weir.models.onnx.export import export_encoder

    return export_encoder(encoder)


def draw(n: int, inputs: int = INPUTS, hidden: int = HIDDEN) -> tuple[Float32Matrix, Float32Matrix]:
    """Inputs and states of n entities."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, inputs)).astype(np.float32)
    return x, rng.uniform(-1, 1, size=(n, hidden)).astype(np.float32)


def timed(call: Callable[[], object], seconds: float, least: int = 50) -> list[float]:
    """Seconds of each call, after some that warm up."""
    for _ in range(5):
        call()
    took: list[float] = []
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds or (len(took) < least and passed < 4 * seconds):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return took


def cell(way: str, precision: str, batch: int, took: list[float]) -> Cell:
    """Summarise the calls of one way."""
    p50, p99 = np.percentile(took, [50, 99]) * 1e6
    rate = batch * len(took) / sum(took)
    return Cell(way, precision, batch, round(rate), round(float(p50), 1), round(float(p99), 1), len(took))


# -- the ways: each makes a call for a batch size ----------------------------------------------------------------------


def weir(work: Work, precision: str, batch: int) -> Callable[[], object]:
    """``OrtModel.step``."""
    x, state = draw(batch)
    model = OrtModel.load(
        work.graphs[precision], 1, work.encoder.inputs, provider="cuda" if work.provider == "cuda" else "cpu",
        buckets=(batch,),
    )  # fmt: skip
    return lambda: model.step(x, state)


def ort_host(work: Work, precision: str, batch: int) -> Callable[[], object]:
    """``InferenceSession.run``."""
    x, state = draw(batch)
    session, _ = open_session(work.graphs[precision], work.provider)
    return lambda: session.run(None, {"x": x, "state": state})


def ort_device(work: Work, precision: str, batch: int) -> Callable[[], object]:
    """``run_with_iobinding`` over what lies on the device."""
    from onnxruntime import OrtValue

    x, state = draw(batch)
    session, _ = open_session(work.graphs[precision], work.provider)
    binding = session.io_binding()
    for name, array in (("x", x), ("state", state)):
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array, work.provider, 0))
    for name, array in (("logit", np.zeros(batch, np.float32)), ("state_out", np.zeros_like(state))):
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array, work.provider, 0))

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def torch_host(work: Work, precision: str, batch: int) -> Callable[[], object]:
    """The compiled module, with copies."""
    import torch

    step, (x, state) = _compiled(work, precision), draw(batch)

    def call() -> object:
        with torch.inference_mode():
            out = step(torch.from_numpy(x).to(work.torch_device), torch.from_numpy(state).to(work.torch_device))
            return [part.float().cpu().numpy() for part in out[:2]]

    return call


def torch_device(work: Work, precision: str, batch: int) -> Callable[[], object]:
    """The compiled module over what lies on the device."""
    import torch

    step = _compiled(work, precision)
    x, state = (torch.from_numpy(part).to(work.torch_device) for part in draw(batch))

    def call() -> None:
        with torch.inference_mode():
            step(x, state)
        if work.provider == "cuda":
            torch.cuda.synchronize()

    return call


def _compiled(work: Work, precision: str) -> Any:
    """The step compiled for one shape; on CUDA as a graph of kernels that is launched at once."""
    import torch

    encoder = work.encoder.to(work.torch_device)
    half = precision == "fp16"

    def step(x: Any, state: Any) -> Any:
        with torch.autocast(work.torch_device, torch.float16, enabled=half):
            return encoder.step(x, state)

    torch._dynamo.reset()
    return torch.compile(step, mode="reduce-overhead" if work.provider == "cuda" else "default", dynamic=False)


WAYS: dict[str, Callable[[Work, str, int], Callable[[], object]]] = {
    "weir": weir,
    "ort, host": ort_host,
    "ort, device": ort_device,
    "torch.compile, host": torch_host,
    "torch.compile, device": torch_device,
}


# -- the run ----------------------------------------------------------------------------------------------------------


def measure(work: Work, batches: list[int], seconds: float, end: float, skipped: list[str]) -> Iterator[Cell]:
    """Every way at every batch size, Weir's first; what there is no time for, or fails, is named in ``skipped``."""
    for way, make in WAYS.items():
        for precision in work.graphs:
            for batch in batches:
                name = f"{way}, {precision}, {batch}"
                if time.perf_counter() > end:
                    skipped.append(f"{name}: no time left")
                    continue
                try:
                    yield cell(way, precision, batch, timed(make(work, precision, batch), seconds))
                except Exception as error:  # noqa: BLE001 - one way that is missing is not the end of the others
                    skipped.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")


def drift_of_half(graphs: dict[str, bytes], inputs: tuple[str, ...], provider: str, steps: int = 64) -> float:
    """The largest difference of logits between fp32 and fp16 after so many steps of 512 entities."""
    if "fp16" not in graphs:
        return 0.0
    (x, state), logits = draw(512), []
    for raw in (graphs["fp32"], graphs["fp16"]):
        model = OrtModel.load(raw, 1, inputs, provider="cuda" if provider == "cuda" else "cpu", buckets=(512,))
        carried = np.zeros_like(state)
        for k in range(steps):
            logit, carried, _ = model.step(np.roll(x, k, axis=0), carried)
        logits.append(logit)
    return float(np.abs(logits[0] - logits[1]).max())


def missing(provider: str) -> str | None:
    """Why CUDA cannot be measured here, or ``None``."""
    try:
        import onnxruntime
        import torch
    except ImportError as error:
        return f"{error.name} is not installed; pip install 'weir[gpu,train]'"
    if provider != "cuda":
        return None
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device; run this on a machine with one, or with --provider cpu"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return (
            f"onnxruntime {onnxruntime.__version__} has no CUDA (only {onnxruntime.get_available_providers()}): "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu; or run with --provider cpu"
        )
    return None


def facts(provider: str) -> dict[str, str]:
    """What it ran on."""
    import onnxruntime
    import torch

    device = torch.cuda.get_device_name(0) if provider == "cuda" else platform.processor() or platform.machine()
    return {"device": device, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}


def graphs_of(encoder: Any) -> dict[str, bytes]:
    """By precision."""
    from weir.models.onnx.float16 import to_float16

    single = graph_of(encoder)
    return {"fp32": single, "fp16": to_float16(single)}


def show(cells: list[Cell]) -> None:
    """A table."""
    print(f"{'way':<22} {'precision':<9} {'batch':>6} {'steps/s':>12} {'p50 us':>9} {'p99 us':>9}")
    for c in cells:
        print(f"{c.way:<22} {c.precision:<9} {c.batch:>6} {c.steps_per_s:>12,.0f} {c.p50_us:>9,.1f} {c.p99_us:>9,.1f}")


def run(provider: str, batches: list[int], seconds: float, limit_s: float) -> dict[str, Any]:
    """Measure everything there is time for; what the JSON says."""
    import torch

    started = time.perf_counter()
    torch.set_num_threads(1)  # as ONNX Runtime, where it is compared on a CPU
    encoder = encoder_of()
    work, skipped = Work(encoder, graphs_of(encoder), provider), list[str]()
    drift = drift_of_half(work.graphs, encoder.inputs, provider)
    cells = list(measure(work, batches, seconds, started + limit_s, skipped))
    show(cells)
    for line in skipped:
        print(f"skipped: {line}")
    best = max((c for c in cells if c.way == "weir"), key=lambda c: c.steps_per_s, default=None)
    return {
        "benchmark": "gpu_inference", "provider": provider, **facts(provider), "inputs": INPUTS, "hidden": HIDDEN,
        "target_steps_per_s": TARGET, "best_weir_steps_per_s": best.steps_per_s if best else None,
        "fp16_logit_drift_64_steps": drift, "seconds": round(time.perf_counter() - started, 1),
        "cells": [asdict(c) for c in cells], "skipped": skipped,
    }  # fmt: skip


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--seconds", type=float, default=1.5, help="of each cell")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds after which no cell is begun")
    parser.add_argument("--out", type=Path, help="where the JSON goes, beside the last line")
    options = parser.parse_args()
    if why := missing(options.provider):
        print(f"nothing was measured: {why}", file=sys.stderr)
        return MISSING
    try:
        found = run(options.provider, [int(b) for b in options.batches.split(",")], options.seconds, options.limit)
    except ModelError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return MISSING
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
