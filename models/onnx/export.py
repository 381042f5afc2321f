"""A torch encoder's step as one ONNX graph, checked against torch before anybody sees it.

It knows the encoder by its ``step``, ``inputs``, ``state``, ``embedding`` and ``surprise`` only;
``weir.models.onnx.translate`` knows the operators. The graph takes any number of rows, and the same weights make the
same bytes.

    onnx = export_encoder(encoder)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from weir.models.errors import ModelError
from weir.models.onnx.graph import GraphSpec, check_graph, open_session, probe_rows, run_graph
from weir.models.onnx.translate import translate
from weir.models.types import Float32Matrix

TOLERANCE: Final = 1e-4
"""Between torch and ONNX Runtime, of max(1, |value|)."""
_ROWS: Final = (0, 1, 7, 129)  # 0 and 1 are where an exporter takes the number of rows for a constant
_HUGE: Final = 3e38


def export_encoder(encoder: Any) -> bytes:
    """Export ``encoder.step``; the module is put into eval mode for it, and back.

    Parameters
    ----------
    encoder : a ``torch.nn.Module`` with all that `weir.models.encoder.Encoder` has, but for its layers.

    Raises
    ------
    ModelError
        It holds something that has no translation, or what came out is not the contract or not what torch computes.
    """
    training = encoder.training
    encoder.eval()
    try:
        data = _translate(encoder)
        check_export(encoder, data)
    finally:
        encoder.train(training)
    return data


def _translate(encoder: Any) -> bytes:
    """Translate one step into a graph."""
    import torch

    # The step as a module's forward, which is all that `torch.fx` traces; with those outputs only that this encoder
    # has.
    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = encoder

        def forward(self, x: Any, state: Any) -> tuple[Any, ...]:
            logit, after, told = self.of.step(x, state)
            if encoder.surprise is None:
                return (logit, after, told) if encoder.embedding else (logit, after)
            if not encoder.embedding:
                return logit, after, told.squeeze(-1)
            embedding, surprise = told.split([encoder.embedding, 1], -1)
            return logit, after, embedding, surprise.squeeze(-1)

    widths = {"x": len(encoder.inputs), "state": encoder.state}
    outputs: dict[str, int | None] = {"logit": None, "state_out": encoder.state}
    outputs |= {"embedding": encoder.embedding} if encoder.embedding else {}
    outputs |= {"surprise": None} if encoder.surprise is not None else {}
    return translate(Step().eval(), widths, outputs)


def check_export(encoder: Any, data: bytes) -> GraphSpec:
    """Compare a graph with ``encoder.step`` on random rows and at the edges: no row, one, zeros, the largest floats.

    Raises ``ModelError`` where they differ by more than ``TOLERANCE``, or the graph breaks the contract.
    """
    spec = check_graph(data)
    wanted_spec = (len(encoder.inputs), encoder.state, encoder.embedding, encoder.surprise is not None)
    if (spec.inputs, spec.state, spec.embedding, spec.surprise) != wanted_spec:
        raise ModelError(f"the graph is {spec}, the encoder takes {len(encoder.inputs)} inputs; export it again")
    session = open_session(data)
    for x, state in _edges(spec):
        wanted = _torch_step(encoder, x, state)
        for name, got in run_graph(session, x, state).items():
            want = wanted[name]
            if got.shape != want.shape:
                raise ModelError(f"{name} of {len(x)} rows is {got.shape} in ONNX and {want.shape} in torch")
            # A logit of the largest inputs is large, and its last bits are more than the tolerance.
            gap = np.abs(got - want) / np.maximum(1.0, np.abs(want))
            if gap.size and not gap.max() <= TOLERANCE:
                raise ModelError(f"{name} differs from torch by {gap.max():.3g}; the limit is {TOLERANCE:g}")
    return spec


def _edges(spec: GraphSpec) -> Iterator[tuple[Float32Matrix, Float32Matrix]]:
    rng = np.random.default_rng(1)
    for n in _ROWS:
        x = rng.normal(scale=3, size=(n, spec.inputs)).astype(np.float32)
        yield x, rng.uniform(-1, 1, size=(n, spec.state)).astype(np.float32)
    yield probe_rows(spec)
    for value in (0.0, _HUGE, -_HUGE):
        yield np.full((3, spec.inputs), value, np.float32), np.zeros((3, spec.state), np.float32)


def _torch_step(encoder: Any, x: Float32Matrix, state: Float32Matrix) -> dict[str, Any]:
    import torch

    device = next(encoder.parameters()).device
    with torch.no_grad():
        logit, after, told = encoder.step(torch.from_numpy(x).to(device), torch.from_numpy(state).to(device))
    out = {"logit": logit, "state_out": after, "embedding": told[:, : encoder.embedding], "surprise": told[:, -1:]}
    if encoder.surprise is not None:
        out["surprise"] = out["surprise"][:, 0]
    return {name: values.cpu().numpy() for name, values in out.items()}
