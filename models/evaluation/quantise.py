"""The same graph in int8 and float16, and what each costs in quality and gains in speed, measured on a replay.

int8: weights are stored in 8 bits, of which 7 are used; activations are scaled by the range that a whole batch has, so
a row's logit depends a little on its neighbours (``max_batch_effect`` says how much). float16: products and what
follows them in 16 bits, what touches raw inputs in 32; made for GPUs, on a CPU it is slower. Inputs and outputs stay
float32. Graphs without matrix products, as trees are, have no variants.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from weir.models.errors import ModelError
from weir.models.evaluation.gate import quality
from weir.models.manifest import Variant
from weir.models.onnx.float16 import PRODUCTS, to_float16
from weir.models.onnx.graph import check_graph, open_session, probe_rows, run_graph
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import OrtModel
from weir.models.types import BoolVector, Built, Float32Vector, History, IntVector

log = logging.getLogger(__name__)
_T = TypeVar("_T")
INT8: Final = "model.int8.onnx"
FLOAT16: Final = "model.float16.onnx"
_BATCH, _CALLS, _TRIES = 512, 20, 3


def with_variants(built: Built, history: History, rows: IntVector, y: BoolVector) -> Built:
    """A candidate with its variants among its files, each with what it costs; as it was where it can have none.

    Parameters
    ----------
    history : replayed from the first event on.
    rows, y : ``(m,)`` labelled events of it on which quality is measured, and their labels.
    """
    made = variants(built.onnx)
    if not made:
        return built
    found = measure(built.onnx, made, history, rows, y, inputs=built.inputs)
    return replace(built, files={**built.files, **{name: made[name] for name in found}}, variants=found)


def variants(onnx: bytes) -> dict[str, bytes]:
    """Make the other graphs, by file name; a graph without matrix products has none.

    One that could not be served, such as a float16 that overflows, is left out, and the log says why.
    """
    if not _products(onnx):
        return {}
    made = {INT8: to_int8(onnx), FLOAT16: to_float16(onnx)}
    # The activations of int8 are scaled by the whole batch.
    checked = {name: partial(check_graph, data, independent=name != INT8) for name, data in made.items()}
    return {name: made[name] for name, check in checked.items() if _unless_refused(name, check) is not None}


def _unless_refused(name: str, ask: Callable[[], _T]) -> _T | None:
    """What ``ask`` gives; ``None`` where it finds that a variant cannot be served."""
    try:
        return ask()
    # The float32 graph serves all the same: a candidate that passed must not be lost for another precision of it.
    except ModelError as refused:
        log.warning("no %s of this model: %s", name, refused)
        return None


def _products(onnx: bytes) -> int:
    from onnx import load_model_from_string

    return sum(node.op_type in PRODUCTS for node in load_model_from_string(onnx).graph.node)


def to_int8(onnx: bytes) -> bytes:
    """Quantise the matrix products of a graph dynamically, their weights per channel."""
    from onnx import load_model_from_string
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = load_model_from_string(onnx)
    # Without this the quantiser warns that shapes were not inferred, which products of weights do not need.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder, _root_logger_kept():
        path = Path(folder) / INT8
        # Per channel: one scale for a whole matrix would be that of its largest column. In 7 bits: two products of 8
        # bits overflow the 16 in which a CPU without VNNI adds them, and it says something else than the others.
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        return _plain(load_model_from_string(path.read_bytes()))


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """The quantiser logs by ``logging.info``, which gives a root logger without handlers one that prints."""
    silent, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


def _plain(model: Any) -> bytes:
    model.ClearField("metadata_props")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def measure(
    onnx: bytes, others: Mapping[str, bytes], history: History, rows: IntVector, y: BoolVector, *,
    inputs: Sequence[str] | None = None,
) -> dict[str, Variant]:  # fmt: skip
    """Replay a history with each graph, states carried on, and compare with the float32 one.

    Returns
    -------
    For each file that gives a finite number for every event: ``average_precision_loss`` and ``roc_auc_loss`` on
    ``rows`` (negative where it is better),
    ``max_logit_change`` over all events, ``max_batch_effect``, ``speed_ratio`` (2 is twice as fast, at batch 512 on one
    CPU thread) and ``size_ratio``.
    """
    if len(rows) != len(y) or not 0 < np.count_nonzero(y) < len(y):
        raise ModelError(f"{np.count_nonzero(y)} of {len(y)} labels of {len(rows)} rows are positive; both are needed")
    names = history.inputs if inputs is None else inputs
    base, took, equal = _replay(onnx, names, history), _time(onnx), np.ones(len(rows))
    before = quality(y, base[rows], equal)
    found = {}
    for name, data in others.items():
        logit = _unless_refused(name, partial(_replay, data, names, history))
        if logit is None:
            continue
        after = quality(y, logit[rows], equal)
        measured = {f"{metric}_loss": before[metric] - after[metric] for metric in before} | {
            "max_logit_change": float(np.max(np.abs(base - logit), initial=0.0)),
            "max_batch_effect": _batch_effect(data),
            "speed_ratio": took / _time(data),
            "size_ratio": len(data) / len(onnx),
        }
        found[name] = Variant(precision="int8" if name == INT8 else "float16", measured=measured)
    return found


def _replay(onnx: bytes, inputs: Sequence[str], history: History) -> Float32Vector:
    return replay(OrtModel.load(onnx, 1, tuple(inputs), provider="cpu"), history)


def _batch_effect(onnx: bytes) -> float:
    """Measure how far a row's logit moves when the row is alone in its batch."""
    session = open_session(onnx)
    x, state = probe_rows(check_graph(onnx, independent=False))
    together = run_graph(session, x, state)["logit"]
    alone = [run_graph(session, x[i : i + 1], state[i : i + 1])["logit"][0] for i in range(len(x))]
    return float(np.max(np.abs(together - np.array(alone))))


def _time(onnx: bytes) -> float:
    """Seconds of a call of 512 rows: the shortest of several means."""
    session, spec = open_session(onnx), check_graph(onnx, independent=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_BATCH, spec.inputs)).astype(np.float32)
    state = rng.uniform(-1, 1, size=(_BATCH, spec.state)).astype(np.float32)
    best = np.inf
    for _ in range(_TRIES):
        began = time.perf_counter()
        for _ in range(_CALLS):
            run_graph(session, x, state)
        best = min(best, (time.perf_counter() - began) / _CALLS)  # the shortest: other load on the machine only adds
    return float(best)
