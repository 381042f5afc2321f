"""A model on ONNX Runtime: batches of fixed sizes over buffers that are bound once.

It knows one graph and arrays; versions, stores and entities are told by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weir.models.errors import ModelError
from weir.models.manifest import Precision
from weir.models.onnx.graph import GraphSpec, declared
from weir.models.serving.occlusion import Baseline
from weir.models.serving.session import Provider, open_session
from weir.models.types import Float32Matrix, Float32Vector

BUCKETS = (1, 8, 32, 128, 512, 2048)
"""Rows of the batches that are run; shapes that vary grow the CUDA arena."""
CALL_ROWS = {"cpu": 32, "cuda": 4096}
"""Rows whose work one more call costs: a CPU rather runs twice than pads, a GPU rather pads."""

Pieces = tuple[tuple[int, int], ...]
"""(rows, bucket) of each piece."""


class Buckets:
    """Cuts ``n`` rows into pieces, each of which is padded to one of ``sizes``.

    Parameters
    ----------
    sizes : rows of a batch, ascending.
    call_rows : what a call costs beside its rows, in rows.

    Raises
    ------
    ModelError : no sizes, or not ascending from at least 1.

    Examples
    --------
    >>> Buckets((1, 8, 32), call_rows=4).plan(70)
    ((32, 32), (32, 32), (6, 8))
    >>> Buckets((1, 8, 32), call_rows=99).plan(12)
    ((12, 32),)
    """

    def __init__(self, sizes: Sequence[int], call_rows: int) -> None:
        self.sizes, self.call_rows = tuple(sizes), call_rows
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise ModelError(f"buckets are {self.sizes}; give ascending batch sizes from 1 on, such as {BUCKETS}")
        self._plans: dict[int, tuple[int, Pieces]] = {0: (0, ())}

    def plan(self, n: int) -> Pieces:
        """(rows, bucket) of each piece, in order; the cheapest of padding the rest or cutting it once more."""
        whole, rest = divmod(n, self.sizes[-1])
        return ((self.sizes[-1], self.sizes[-1]),) * whole + self._cheapest(rest)[1]

    def _cheapest(self, n: int) -> tuple[int, Pieces]:
        """Cost and pieces of ``n`` rows, fewer than the largest bucket."""
        if n not in self._plans:  # sizes repeat, so each is planned once
            above = next(size for size in self.sizes if size >= n)
            best: tuple[int, Pieces] = (above + self.call_rows, ((n, above),))
            below = max((size for size in self.sizes if size < n), default=0)
            if below:
                cost, pieces = self._cheapest(n - below)
                # At equal cost the pieces are compared: the same plan in every process.
                best = min(best, (below + self.call_rows + cost, ((below, below), *pieces)))
            self._plans[n] = best
        return self._plans[n]


@dataclass(frozen=True, slots=True)
class _Bound:
    """One bucket: its binding, and the places of inputs and outputs that it names."""

    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class OrtModel:
    """A ``weir.models.types.StepModel``; one thread at a time may call it, because calls share their buffers.

    Rows do not depend on each other, so neither padding nor the way rows were cut into calls can be seen in a result
    but by the last bits of a float32 (a graph that quantises activations by their range in the batch breaks that).

    Examples
    --------
    >>> from onnx.parser import parse_model
    >>> graph = parse_model('''<ir_version: 10, opset_import: ["" : 18]> g (float[n, 2] x) => (float[n] logit)
    ... <int64[1] axis = {1}> { logit = ReduceSum <keepdims = 0> (x, axis) }''')
    >>> model = OrtModel.load(graph.SerializeToString(), 7, ("a", "b"), provider="cpu", buckets=(1, 8))
    >>> logit, state, embedding = model.step(np.ones((3, 2), np.float32), np.empty((3, 0), np.float32))
    >>> logit.tolist(), state.shape, embedding.shape, model.version, model.provider
    ([2.0, 2.0, 2.0], (3, 0), (3, 0), 7, 'cpu')
    """

    def __init__(
        self, session: Any, provider: str, version: int, inputs: Sequence[str], spec: GraphSpec, buckets: Buckets
    ) -> None:
        self.version, self.provider, self.inputs = version, provider, tuple(inputs)
        self.state, self.embedding, self.surprise = spec.state, spec.embedding, spec.surprise
        self.precision: Precision = "float32"
        """Precision of the graph; whoever has the manifest sets it, as ``usual``."""
        self.usual: Baseline | None = None
        """Usual values of the inputs, from which explanations start."""
        self._session, self._buckets = session, buckets
        largest = buckets.sizes[-1]
        self._x = np.zeros((largest, spec.inputs), np.float32)
        self._state = np.zeros((largest, self.state), np.float32)
        self._out = {"logit": np.zeros(largest, np.float32)}
        if self.state:
            self._out["state_out"] = np.zeros((largest, self.state), np.float32)
        if self.embedding:
            self._out["embedding"] = np.zeros((largest, self.embedding), np.float32)
        if self.surprise:
            self._out["surprise"] = np.zeros(largest, np.float32)
        self._bound = {size: self._bind(size) for size in buckets.sizes}

    @classmethod
    def load(
        cls,
        onnx: bytes,
        version: int,
        inputs: Sequence[str],
        *,
        provider: Provider = "auto",
        threads: int = 1,
        buckets: Sequence[int] = BUCKETS,
    ) -> OrtModel:
        """Open a graph and run every bucket once.

        Parameters
        ----------
        onnx : see ``weir.models.types.Built.onnx``.
        version : the registry's, from 1 on.
        inputs : D names of the columns of x.
        provider : ``auto`` takes CUDA where it is; ``cuda`` without CUDA is an error.
        threads : of one operator.
        buckets : batch sizes that are run.

        Raises
        ------
        ModelError : no graph, one that does not fit, outputs that are not finite, or a provider that is not there.
        """
        session, chosen = open_session(onnx, provider, threads)
        spec = declared(session)
        if spec.inputs != len(inputs):
            raise ModelError(
                f"the graph takes x of {spec.inputs} columns, its manifest names {len(inputs)}: not of one model"
            )
        model = cls(session, chosen, version, inputs, spec, Buckets(buckets, CALL_ROWS[chosen]))
        model.warm_up()  # the first call of a size allocates: not while events wait
        return model

    def step(self, x: Float32Matrix, state: Float32Matrix) -> tuple[Float32Vector, Float32Matrix, Float32Matrix]:
        """See ``StepModel``.

        Raises ``ModelError`` where the runtime fails. What comes out may not be finite for what goes in; the caller
        sees to that.
        """
        n = len(x)
        logit = np.empty(n, np.float32)
        after = np.empty((n, self.state), np.float32)
        embedding = np.empty((n, self.embedding + self.surprise), np.float32)
        start = 0
        for rows, size in self._buckets.plan(n):
            stop = start + rows
            out = self._run(x[start:stop], state[start:stop], size)
            logit[start:stop] = out["logit"][:rows]
            if self.state:
                after[start:stop] = out["state_out"][:rows]
            if self.embedding:
                embedding[start:stop, : self.embedding] = out["embedding"][:rows]
            if self.surprise:
                embedding[start:stop, -1] = out["surprise"][:rows]
            start = stop
        return logit, after, embedding

    def warm_up(self) -> None:
        """Run every bucket; raises ``ModelError`` where that fails or the outputs of plain inputs are not finite."""
        for size in self._buckets.sizes:
            for x in (np.zeros((size, len(self.inputs)), np.float32), np.ones((size, len(self.inputs)), np.float32)):
                for part in self.step(x, np.zeros((size, self.state), np.float32)):
                    if not np.isfinite(part).all():
                        raise ModelError(
                            f"version {self.version}: a batch of {size} gives outputs that are not finite for inputs "
                            f"of {x[0, :1].tolist()}; train it anew, with its inputs scaled"
                        )

    def _run(self, x: Float32Matrix, state: Float32Matrix, size: int) -> dict[str, Any]:
        """Outputs of at least ``len(x)`` rows, in buffers that the next call overwrites."""
        n, bound = len(x), self._bound[size]
        self._x[:n] = x
        self._x[n:size] = 0.0  # what an earlier batch left there could overflow
        if self.state:
            self._state[:n] = state
            self._state[n:size] = 0.0
        try:
            if self.provider == "cuda":
                bound.inputs["x"].update_inplace(self._x[:size])
                if self.state:
                    bound.inputs["state"].update_inplace(self._state[:size])
            self._session.run_with_iobinding(bound.binding)
            if self.provider == "cuda":
                return {name: value.numpy() for name, value in bound.outputs.items()}
        except Exception as exc:  # ONNX Runtime's errors have no base of their own
            raise ModelError(f"version {self.version} failed on a batch of {size} on {self.provider}: {exc}") from exc
        return self._out

    def _bind(self, size: int) -> _Bound:
        """Bind one batch size: to our own arrays on a CPU, to memory of the device on CUDA."""
        from onnxruntime import OrtValue

        given = {"x": self._x[:size], "state": self._state[:size]} if self.state else {"x": self._x[:size]}
        # On a CPU a value is the array itself: what `_run` writes to it is what the session reads. On CUDA it is a
        # copy, which `update_inplace` writes again.
        inputs = {name: OrtValue.ortvalue_from_numpy(a, self.provider, 0) for name, a in given.items()}
        outputs = {name: OrtValue.ortvalue_from_numpy(a[:size], self.provider, 0) for name, a in self._out.items()}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Bound(binding, inputs, outputs)
