"""Checks that bytes are a graph that Weir can serve, before anything serves them: the contract of ``Built.onnx``.

What trained a graph does not matter here. It is read with ``onnx``, run with ONNX Runtime on the CPU over a few rows
made for the purpose, and refused with a sentence that says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.types import Float32Matrix

INPUTS_MAX: Final = 1024  # as many names as a manifest holds
STATE_MAX: Final = 1024  # no task can grant more: FullSpec.state
EMBEDDING_MAX: Final = 64  # FullSpec.embedding ends here too
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators of ONNX, and those that ONNX Runtime brings along; others would need a library of their own."""
EXTREME: Final = 1e12
"""The largest value a probe holds: no amount on the wire is larger."""
_TOLERANCE: Final = 1e-4
PROBE_S: Final = 10.0
"""What a graph may take for a handful of rows; those that are served take milliseconds."""

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """What a graph takes and gives."""

    inputs: int
    """D, the number of columns of ``x``."""
    state: int
    """S, the floats of state; 0 for none."""
    embedding: int
    """E, the coordinates of the embedding; 0 for none."""
    opset: int
    """Version of the standard operators it uses."""
    surprise: bool = False
    """Whether it tells how surprising an event is."""


def check_graph(data: bytes, *, independent: bool = True) -> GraphSpec:
    """Check a graph against the contract of ``weir.models.types.Built.onnx`` and say what it takes.

    Parameters
    ----------
    data : the bytes of an ONNX file.
    independent : whether a row's outputs must not depend on the other rows of a batch; a dynamically quantised graph,
        which scales activations by the whole batch, cannot promise that.

    Raises
    ------
    ModelError
        Not a graph, truncated, operators that are not available, wrong names, types or shapes, outputs that are not
        finite, not the same when run twice, or not the same in another batch; or it takes longer than ``PROBE_S``.
    """
    model = read_graph(data)
    session = open_session(data)
    spec = declared(session, opset_of(model))
    probe(session, spec, independent)
    return spec


def read_graph(data: bytes) -> Any:
    """A graph that is complete and needs nothing else, as an ``onnx.ModelProto``; raises ``ModelError``."""
    import onnx

    failure: type[Exception] = import_module("google.protobuf.message").DecodeError
    if not data:
        raise ModelError("the graph is empty (0 bytes); export it again")
    try:
        model = onnx.load_model_from_string(data)
    except failure as exc:
        raise ModelError(f"{len(data):,} bytes are no ONNX graph ({exc}): corrupt or truncated; export again") from exc
    used = {node.domain for node in _nodes(model)}
    if unknown := sorted(map(str, used - DOMAINS)):
        raise ModelError(f"operators of {unknown} are not available; export with those of {sorted(DOMAINS - {''})}")
    # A path in a graph could name any file of the machine that serves it.
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _tensors(model)):
        raise ModelError("weights lie outside the graph's file; export it with external_data=False")
    return model


def opset_of(model: Any) -> int:
    """Version of the standard operators that a graph asks for; 1 where it names none."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, its functions, and all graphs within them."""
    todo = [model.graph, *model.functions]
    while todo:
        graph = todo.pop()
        yield graph
        for attribute in (a for node in graph.node for a in node.attribute):
            todo.extend((attribute.g, *attribute.graphs))


def _nodes(model: Any) -> Iterator[Any]:
    """All nodes that are no calls of the model's own functions."""
    # What a function calls in turn is looked at where `_graphs` goes through the functions.
    local = {function.domain for function in model.functions}
    return (node for graph in _graphs(model) for node in graph.node if node.domain not in local)


def _tensors(model: Any) -> Iterator[Any]:
    """All weights and constants."""
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in graph.node for a in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def open_session(data: bytes) -> Any:
    """An ``InferenceSession`` on one CPU thread; raises ``ModelError`` with the runtime's own words."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print is in the exception
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as exc:  # ONNX Runtime's errors have no base of their own
        raise ModelError(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {first_line(exc)}") from exc


def declared(session: Any, opset: int = 0) -> GraphSpec:
    """What the graph of a session takes and gives; raises ``ModelError`` where that is not the contract."""
    takes, gives = ({v.name: v for v in values} for values in (session.get_inputs(), session.get_outputs()))
    if "x" not in takes or set(takes) - {"x", "state"}:
        raise ModelError(f"the graph's inputs are {list(takes)}; they must be x and, for a model with memory, state")
    if "logit" not in gives or set(gives) - {"logit", "state_out", "embedding", "surprise"}:
        raise ModelError(
            f"the graph's outputs are {list(gives)}; they must be logit, and state_out, embedding, surprise if any"
        )
    ins, outs = ({name: _width(v.name, v.type, v.shape) for name, v in of.items()} for of in (takes, gives))
    state, embedding = ins.get("state", 0), outs.get("embedding", 0)
    if state != outs.get("state_out", 0):
        raise ModelError(f"state takes {state} floats and state_out gives {outs.get('state_out', 0)}; they must agree")
    for name, value, limit in (("x", ins["x"], INPUTS_MAX), ("state", state, STATE_MAX),
                               ("embedding", embedding, EMBEDDING_MAX)):  # fmt: skip
        if value > limit:
            raise ModelError(f"{name} is {value} wide; the limit is {limit}")
    return GraphSpec(ins["x"], state, embedding, opset, "surprise" in outs)


def _width(name: str, kind: str, shape: list[int | str | None]) -> int:
    """Columns of an input or output; 1 for ``logit`` and ``surprise``, which have none."""
    if kind != "tensor(float)":
        raise ModelError(f"{name} is {kind}; it must be float32: convert inside the graph")
    rank = 1 if name in ("logit", "surprise") else 2
    wanted = "(n,)" if rank == 1 else "(n, width)"
    if len(shape) != rank or isinstance(shape[0], int):
        raise ModelError(f"{name} has shape {shape}; it must be {wanted} with a dynamic first axis")
    width = shape[1] if rank == 2 else 1
    if not isinstance(width, int) or width < 1:
        raise ModelError(f"{name} has shape {shape}; its width must be a fixed number of at least 1")
    return width


def probe_rows(spec: GraphSpec) -> tuple[Float32Matrix, Float32Matrix]:
    """Rows on which to try a graph: ``x (16, D)`` from zero to ``EXTREME``, ``state (16, S)`` from zero to full."""
    rng = np.random.default_rng(0)
    scale = np.array([0, 1e-30, 1e-3, 1, 1, 1, 1, 10, 10, 100, 1e3, 1e4, 1e6, 1e9, EXTREME, -EXTREME])
    x = rng.normal(size=(len(scale), spec.inputs))
    # At the extremes exactly, in all columns at once.
    x[-2:] = 1.0
    state = np.clip(rng.normal(size=(len(scale), spec.state)), -1, 1)
    state[:3] = 0.0  # an entity never seen
    return (x * scale[:, None]).astype(np.float32), state.astype(np.float32)


def probe(session: Any, spec: GraphSpec, independent: bool = True) -> None:
    """Run a session on ``probe_rows``; raises ``ModelError`` for outputs that cannot be served."""
    x, state = probe_rows(spec)
    out = run_graph(session, x, state, PROBE_S)
    shapes = {"logit": (len(x),), "state_out": (len(x), spec.state), "embedding": (len(x), spec.embedding),
              "surprise": (len(x),)}  # fmt: skip
    for name, values in out.items():
        if values.shape != shapes[name]:
            raise ModelError(f"{name} came out as {values.shape}; it must be {shapes[name]}")
        if bad := np.flatnonzero(~np.isfinite(values.reshape(len(x), -1)).all(axis=1)).tolist():
            largest = float(np.abs(x[bad[0]]).max())
            raise ModelError(f"{name} is not finite where inputs reach {largest:.3g}; clip or scale them in the graph")
    # A graph that was exported in training mode drops some of its inputs at random.
    if any(not np.array_equal(values, out[name]) for name, values in run_graph(session, x, state, PROBE_S).items()):
        raise ModelError("the graph gives other outputs when run twice on the same rows; export it in eval mode")
    if not independent:
        return
    # Zeros, an ordinary row, and an extreme.
    for i in (0, 5, len(x) - 1):
        for name, values in run_graph(session, x[i : i + 1], state[i : i + 1], PROBE_S).items():
            gap = float(np.max(np.abs(values[0] - out[name][i]) / np.maximum(1, np.abs(values[0]))))
            # `not <=`: what is scaled by the spread of its batch is NaN in a batch of one row.
            if not gap <= _TOLERANCE:
                raise ModelError(f"{name} of a row depends on the other rows of its batch (differs by {gap:.3g})")


def run_graph(session: Any, x: Float32Matrix, state: Float32Matrix | None = None, limit_s: float = 3600.0) -> Outputs:
    """Outputs by name for ``x (n, D)`` and ``state (n, S)``, which a graph without memory is not given."""
    takes = {i.name for i in session.get_inputs()}
    return run_feeds(session, {"x": x} if state is None or "state" not in takes else {"x": x, "state": state}, limit_s)


def run_feeds(session: Any, feeds: Mapping[str, NDArray[Any]], limit_s: float) -> Outputs:
    """Outputs by name for inputs by name.

    A run is ended at the next operator, and raises ``ModelError``, when it takes longer than ``limit_s``.
    """
    import onnxruntime

    names = [o.name for o in session.get_outputs()]
    options = onnxruntime.RunOptions()
    # ONNX Runtime has no time limit of its own; it looks at the flag between two operators.
    overdue = threading.Timer(limit_s, lambda: setattr(options, "terminate", True))
    # A process that wants to end does not wait for it.
    overdue.daemon = True
    overdue.start()
    try:
        return dict(zip(names, session.run(names, dict(feeds), options), strict=True))
    except Exception as exc:  # ONNX Runtime's errors have no base of their own
        why = f"takes longer than {limit_s:g} s" if options.terminate else f"fails: {first_line(exc)}"
        raise ModelError(f"the graph on {max(map(len, feeds.values()))} rows {why}") from exc
    finally:
        overdue.cancel()


def first_line(exc: Exception) -> str:
    """Return the first line of an error; its type's name when it says nothing."""
    return (str(exc).splitlines() or [type(exc).__name__])[0][:500]
