"""A kernel on disk is used again until something that is compiled into it changes, in whatever module."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHER = """
import numpy as np
from typing import NamedTuple
from numba.extending import intrinsic
from numba import types
from DECORATOR import njit
BY, TABLE = 2.0, np.array([1.0, 2.0])
class Pair(NamedTuple):
    a: float
    b: float
@njit(cache=True)
def deep(x):
    return x * 3.0
@njit(cache=True, inline="always")
def step(x):
    return deep(x) + 1.0
@intrinsic
def same(context, x):
    def made(context, builder, signature, arguments):
        return builder.fmul(arguments[0], arguments[0].type(5.0))
    return types.float64(types.float64), made
"""
KERNELS = """
import json
import other
from DECORATOR import njit
from other import BY, TABLE, Pair, deep, same, step
@njit(cache=True)
def called(x):
    return step(x)
@njit(cache=True)
def of_a_module(x):
    return other.deep(x)
@njit(cache=True)
def constant(x):
    return x * BY
@njit(cache=True)
def table(x):
    return x * TABLE[1]
@njit(cache=True)
def intrinsic(x):
    return same(x)
@njit(cache=True)
def field(x):
    return x.a
@njit(cache=True)
def untouched(x):
    return x + 1.0
KERNELS = called, of_a_module, constant, table, intrinsic, field, untouched
found = {k.__name__: k(Pair(a=7.0, b=1.0) if k is field else 7.0) for k in KERNELS}
print(json.dumps([found, {k.__name__: sum(k.stats.cache_hits.values()) for k in KERNELS}]))
"""
ALGEBRA = """
import json, sys
import numpy as np
from weir.online.jit import njit
@njit(cache=True)
def sum_of(x):
    return x.sum()
@njit(cache=True)
def product_of(x):
    return np.dot(x, x)
x, loaded = np.array([1.0, 2.0]), lambda: "scipy.linalg" in sys.modules
found = {"before": loaded(), "sum": sum_of(x), "without": loaded(), "product": product_of(x)}
hits = {"sum": sum_of.stats.cache_hits, "product": product_of.stats.cache_hits}
print(json.dumps([found, {name: sum(each.values()) for name, each in hits.items()}]))
"""
EDITS = {
    "x * 3.0": "x * 4.0",
    "BY, TABLE = 2.0, np.array([1.0, 2.0])": "BY, TABLE = 9.0, np.array([1.0, 8.0])",
    "(5.0)": "(6.0)",
    "    a: float\n    b: float": "    b: float\n    a: float",
}
BEFORE = {"called": 22.0, "of_a_module": 21.0, "constant": 14.0, "table": 14.0, "intrinsic": 35.0} | {
    "field": 7.0, "untouched": 8.0,
}  # fmt: skip
AFTER = {"called": 29.0, "of_a_module": 28.0, "constant": 63.0, "table": 56.0, "intrinsic": 42.0} | {
    "field": 7.0, "untouched": 8.0,
}  # fmt: skip


def run(folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    """What the kernels return, and how many came from disk, in a process of their own."""
    environ = os.environ | {
        "PYTHONPATH": f"{folder}:{ROOT}", "NUMBA_CACHE_DIR": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",  # bytecode is stamped with whole seconds: an edit within one would not be seen
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values, hits = json.loads(done.stdout)
    return values, hits


@pytest.mark.parametrize(("decorator", "seen"), [("weir.online.jit", True), ("numba", False)])
def test_an_edit_in_another_module_is_noticed(tmp_path: Path, decorator: str, seen: bool) -> None:
    """numba's own cache keeps what was compiled before: the second case says why ``weir.online.jit`` is there."""
    other = OTHER.replace("DECORATOR", decorator)
    (tmp_path / "other.py").write_text(other)
    (tmp_path / "kernels.py").write_text(KERNELS.replace("DECORATOR", decorator))
    assert run(tmp_path) == (BEFORE, dict.fromkeys(BEFORE, 0))
    assert run(tmp_path) == (BEFORE, dict.fromkeys(BEFORE, 1))
    for old, new in EDITS.items():
        assert old in other
        other = other.replace(old, new)
    (tmp_path / "other.py").write_text(other)
    values, hits = run(tmp_path)
    assert hits["untouched"] == 1
    if seen:
        assert values == AFTER
        assert sum(hits.values()) == 1
    else:
        assert values == BEFORE | {"field": 1.0}, "the place that the other field has now"
        assert hits == dict.fromkeys(BEFORE, 1)


def test_a_stored_kernel_of_a_type_that_has_moved_is_compiled_anew(tmp_path: Path) -> None:
    """numba reads the types that an index names before it sees that the kernel itself has changed."""
    (tmp_path / "other.py").write_text(OTHER.replace("DECORATOR", "weir.online.jit"))
    kernels = KERNELS.replace("DECORATOR", "weir.online.jit")
    (tmp_path / "kernels.py").write_text(kernels)
    assert run(tmp_path) == (BEFORE, dict.fromkeys(BEFORE, 0))
    (tmp_path / "other.py").rename(tmp_path / "elsewhere.py")
    (tmp_path / "kernels.py").write_text(
        kernels.replace("import other", "import elsewhere as other").replace("from other", "from elsewhere")
    )
    assert run(tmp_path)[0] == BEFORE
    assert run(tmp_path) == (BEFORE, dict.fromkeys(BEFORE, 1))
    for index in (tmp_path / "cache").rglob("*.nbi"):
        index.write_bytes(index.read_bytes()[:-9])  # a disk that was full
    assert run(tmp_path) == (BEFORE, dict.fromkeys(BEFORE, 0))


def test_scipy_is_imported_for_the_kernels_that_use_it(tmp_path: Path) -> None:
    """numba would import its linear algebra with the first kernel of each process, whatever that does."""
    (tmp_path / "kernels.py").write_text(ALGEBRA)
    assert run(tmp_path) == ({"before": False, "sum": 3.0, "without": False, "product": 5.0}, {"sum": 0, "product": 0})
    assert run(tmp_path) == ({"before": False, "sum": 3.0, "without": False, "product": 5.0}, {"sum": 1, "product": 1})


def test_every_kernel_is_stored_so() -> None:
    modules = [p for layer in ("online", "streams", "models") for p in (ROOT / layer).rglob("*.py")]
    direct = set()
    for path in modules:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module == "numba" and "njit" in {a.name for a in node.names}:
                direct.add(path.relative_to(ROOT).as_posix())
    assert not direct, "import njit from weir.online.jit: numba's own does not notice an edit in another module"
