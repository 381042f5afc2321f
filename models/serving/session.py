"""Opens ONNX Runtime sessions: which provider, with how many threads and how much memory.

ONNX Runtime is imported on first use, not with the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from weir.models.errors import ModelError
from weir.models.onnx.graph import first_line

Provider = Literal["auto", "cpu", "cuda"]

_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
GPU_MEM_LIMIT = 2 * 1024**3
"""Bytes of the CUDA arena of one session; a model of this size needs a few per cent of it."""


def choose_provider(asked: str, available: Sequence[str]) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes CUDA where it is.

    Raises
    ------
    ModelError : the provider asked for is not available, or unknown.

    Examples
    --------
    >>> choose_provider("auto", ["CPUExecutionProvider"])
    'cpu'
    """
    if asked == "auto":
        return "cuda" if _NAMES["cuda"] in available else "cpu"
    if asked not in _NAMES:
        raise ModelError(f"provider is {asked!r}; give 'auto', 'cpu' or 'cuda'")
    if _NAMES[asked] not in available:
        raise ModelError(
            f"provider {asked!r} was asked for, but this ONNX Runtime has only {', '.join(available)}: "
            f"pip install 'weir[{'gpu' if asked == 'cuda' else 'cpu'}]', or set the provider to 'auto'"
        )
    return asked


def open_session(onnx: bytes, provider: str = "auto", threads: int = 1) -> tuple[Any, str]:
    """A session of a graph, and the provider it runs on.

    Parameters
    ----------
    onnx : the graph.
    provider : see ``choose_provider``.
    threads : of one operator; calls come from one thread, and the machine has other work.

    Raises
    ------
    ModelError : no such provider, a provider that does not start, or no graph.
    """
    try:
        import onnxruntime as ort
    except ImportError as exc:
        raise ModelError("onnxruntime is not installed: pip install 'weir[cpu]' or 'weir[gpu]'") from exc
    chosen = choose_provider(provider, ort.get_available_providers())
    if chosen == "cpu":
        return _start(ort, onnx, "cpu", threads), "cpu"
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries of pip packages, which are on no path
    try:
        session = _start(ort, onnx, "cuda", threads)
    except ModelError:
        if provider == "cuda":
            raise
        return _start(ort, onnx, "cpu", threads), "cpu"  # no device, or no driver
    if (got := session.get_providers()[0]) == _NAMES["cuda"]:
        return session, "cuda"
    # The CUDA libraries are missing or do not fit: the runtime then takes the CPU without an error.
    if provider == "cuda":
        raise ModelError(
            f"provider 'cuda' was asked for, but the session runs on {got}: the CUDA or cuDNN libraries, or the "
            "driver, do not fit this onnxruntime-gpu. See its error above, or set the provider to 'cpu'"
        )
    return session, "cpu"


def _start(ort: Any, onnx: bytes, provider: str, threads: int) -> Any:
    """A session on one provider; raises ``ModelError`` where that, or the graph, does not start."""
    try:
        # Without a fallback: the package would print the error and take the CPU by itself.
        return ort.InferenceSession(onnx, _options(ort, threads), providers=_providers(provider), enable_fallback=0)
    except Exception as exc:  # ONNX Runtime's errors have no base of their own
        raise ModelError(
            f"ONNX Runtime refused the graph ({len(onnx)} bytes) on {provider}: {first_line(exc)}"
        ) from exc


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Errors only: that some nodes run on the CPU is a warning of its own, and usual here.
    options.log_severity_level = 3
    # Threads that spin between two calls take the cores of everything else on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(chosen: str) -> list[Any]:
    if chosen == "cpu":
        return [_NAMES["cpu"]]
    cuda = {
        "device_id": 0,
        # The default rounds each extension up to a power of two.
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": GPU_MEM_LIMIT,
        "use_tf32": 0,  # a state is carried over thousands of steps: CPU and GPU should stay together
    }
    # The CPU too: tree ensembles have no CUDA kernel, and a blend holds them.
    return [(_NAMES["cuda"], cuda), _NAMES["cpu"]]
