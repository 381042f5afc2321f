"""Imports point down only: streams, then online, then models; and importing a module does nothing else.

Modules are named here as within ``weir``: ``streams.records`` is what others import as ``weir.streams.records``.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.layout import measure

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("streams", "online", "models")
MODULES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
SHARED = ("online.codec.wire", "online.batch", "online.errors", "online.mistakes")
"""The types that ``models`` may share with the layer above it, and its words for what is wrong with a document."""
FORBIDDEN_IN_ONLINE = {
    "streams", "models", "faust", "kafka", "aiokafka", "redis", "time", "socket", "subprocess", "threading", "asyncio",
    "multiprocessing", "urllib", "http", "requests", "secrets", "uuid", "os", "pathlib", "shutil", "tempfile",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
SEEDED = {("random", "Random"), ("np.random", "default_rng"), ("np.random", "Generator"), ("np.random", "PCG64"),
          ("np.random", "SeedSequence"), ("np.random", "Philox"), ("numpy.random", "default_rng")}  # fmt: skip


ROOMS = {
    "models": "errors durable manifest types encoder dataset onnx registry serving evaluation training trees",
    "online": "errors jit frozen batch full_columns durations mistakes toml_text intake_policy event_time "
    "metrics decisions drift anomaly codec digests rows features learners labels ranking task stages",
    "streams": "errors text whole_files pages records reject_limit ops config outputs kafka redis offline_models "
    "model_replicas embedded simulate backtest task_files checks trainer workbench replay worker service demo client "
    "cli",
}
"""Sub-packages (and modules beside them) in their order: each imports only what comes before it."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(nodes: Iterable[ast.AST], module: str) -> Iterator[str]:
    """What a module imports; Weir's own modules without the ``weir.`` in front."""
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import at line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            assert name.split(".")[0] not in LAYERS, f"{module} imports {name}: it is weir.{name} (ADR 29)"
            yield name.removeprefix("weir.")


def upward(layer: str, name: str) -> bool:
    """Whether a module of ``layer`` must not import ``name``."""
    if layer == "online":
        return name.split(".")[0] in FORBIDDEN_IN_ONLINE
    if layer == "models":
        shared = any(name == s or name.startswith(f"{s}.") for s in SHARED)
        return name.split(".")[0] in {"streams", "faust", "kafka", "aiokafka", "redis"} or (
            name.split(".")[0] == "online" and not shared
        )
    return False


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def impure(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Calls that read a clock, draw unseeded random numbers or touch files."""
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        owner, _, function = dotted(node.func).rpartition(".")
        where = f"{dotted(node.func)} at line {node.lineno}"
        if owner.split(".")[-1] in {"datetime", "date", "time"} and function in CLOCKS:
            yield where
        if owner in {"random", "np.random", "numpy.random"} and (
            (owner, function) not in SEEDED or not (node.args or node.keywords)
        ):
            yield where
        if dotted(node.func) in {"open", "input", "exec", "eval", "print"}:
            yield where


LOADERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "copyreg"}
CALLS = {"eval", "exec", "compile", "allow_pickle"}
OWN_FILES = {
    "models/training/ddp.py",
    "streams/trainer/job/job_steps.py",
    "streams/trainer/job/job_runner.py",
}
"""The trainer's hand-over to its own children, in its own directory, which only its user can enter."""


def _loads_objects(node: ast.AST) -> str:
    """The module or function by which this piece of code could make objects of somebody else's bytes."""
    if isinstance(node, ast.Import):
        return next((a.name for a in node.names if a.name.split(".")[0] in LOADERS), "")
    if isinstance(node, ast.ImportFrom):
        if all(a.name.endswith("Error") for a in node.names):  # it catches one, and loads nothing
            return ""
        return (node.module or "") if (node.module or "").split(".")[0] in LOADERS else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return node.func.id
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        return "allow_pickle"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in {
        ("torch", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle"),
    }:  # fmt: skip
        return f"{node.value.id}.{node.attr}"
    return ""


def nodes_of(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


class Facts(NamedTuple):
    """What the tests ask of a module."""

    imports: list[str]
    impure: list[str]
    calls: set[str]
    loads: set[str]


@cache
def facts_of(path: Path) -> Facts:
    """A module is parsed once for all tests, and its tree let go: thousands of them would slow down the others."""
    nodes = nodes_of(path.read_text())
    calls = {dotted(node.func) for node in nodes if isinstance(node, ast.Call)}
    loads = {_loads_objects(node) for node in nodes} - {""}
    return Facts(list(imported(nodes, name_of(path))), list(impure(nodes)), calls, loads)


def test_every_layer_has_modules() -> None:
    assert {p.relative_to(ROOT).parts[0] for p in MODULES} == set(LAYERS)
    assert len(MODULES) > 50


def test_imports_point_down() -> None:
    modules = {name_of(path): path for path in MODULES}
    found = {
        module: [n for n in facts_of(path).imports if upward(module.split(".")[0], n)]
        for module, path in modules.items()
    }
    wrong = {module: names for module, names in found.items() if names}
    assert not wrong, "imports point down only (docs/ARCHITECTURE.md)"


def test_the_core_has_no_clock_no_unseeded_randomness_and_no_files() -> None:
    found = {name_of(path): facts_of(path).impure for path in MODULES if path.is_relative_to(ROOT / "online")}
    assert not {module: calls for module, calls in found.items() if calls}


@pytest.mark.parametrize(
    ("layer", "source"),
    [("online", "import time"), ("online", "import weir.streams.records"), ("online", "import redis.asyncio"),
     ("models", "from weir.online.stages.pipeline import TaskPipeline"), ("models", "import weir.streams")],
)  # fmt: skip
def test_the_import_rule_can_fail(layer: str, source: str) -> None:
    assert any(upward(layer, name) for name in imported(nodes_of(source), "here"))


@pytest.mark.parametrize(
    "source",
    ["datetime.datetime.now()", "np.random.rand(3)", "np.random.default_rng()", "random.random()", "random.Random()",
     "open('x')", "date.today()"],
)  # fmt: skip
def test_the_purity_rule_can_fail(source: str) -> None:
    assert list(impure(nodes_of(source)))


@pytest.mark.parametrize("source", ["np.random.default_rng(7)", "random.Random(seed)", "ts.max()", "from_time.now"])
def test_the_purity_rule_lets_seeds_pass(source: str) -> None:
    assert not list(impure(nodes_of(source)))


def backwards(module: str, names: Iterable[str]) -> list[str]:
    """What a module imports of rooms that come after its own, also within functions and for types."""
    layer, _, rest = module.partition(".")
    order = ROOMS[layer].split()
    own = order.index(rest.split(".")[0])
    inside = [name.split(".")[1] for name in names if name.startswith(f"{layer}.")]
    return [room for room in inside if room in order[own + 1 :]]


def test_rooms_stand_in_an_order() -> None:
    modules = {name_of(path): path for path in MODULES if name_of(path) not in LAYERS}
    found = {module: backwards(module, facts_of(path).imports) for module, path in modules.items()}
    wrong = {module: rooms for module, rooms in found.items() if rooms}
    assert not wrong, "a module imports rooms that come after its own in ROOMS (docs/ARCHITECTURE.md)"


def test_every_room_is_in_the_order() -> None:
    for layer, order in ROOMS.items():
        there = {p.stem for p in (ROOT / layer).iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
        assert there - {"__init__"} == set(order.split())


def test_the_order_of_rooms_can_fail() -> None:
    assert backwards("streams.kafka.transport_settings", ["streams.worker.run.Worker"]) == ["worker"]
    assert not backwards(
        "streams.worker.run", ["streams.kafka.transport_settings.LinkSecurity", "streams.worker.lanes.lane"]
    )


def test_a_bare_name_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"it is weir\.models\.types"):
        list(imported(nodes_of("from models.types import Built"), "here"))


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs"])
def test_everything_beside_the_product_imports_weir(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert list(imported(nodes_of(path.read_text()), str(path))) is not None


def test_models_may_share_types() -> None:
    assert not upward("models", "online.codec.wire.Prediction")
    assert not upward("models", "online.batch.EventBatch")


LOOSE = re.compile(r"(?<=\n\n)(?:#.*\n)+(?=\n)")


def loose_comments(text: str) -> list[str]:
    """First lines of comments at the margin that stand between blank lines: they are about no code beside them."""
    if not LOOSE.search(text):
        return []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    return [m[0].split("\n")[0] for m in LOOSE.finditer(text) if text.count("\n", 0, m.start()) + 1 in comments]


def test_no_comment_stands_for_a_module_within_a_module() -> None:
    """A second concept has a module with a docstring; what is of the first is said where it is."""
    found = {name_of(path): loose_comments(path.read_text()) for path in MODULES}
    assert not {module: comments for module, comments in found.items() if comments}


@pytest.mark.parametrize(
    ("text", "found"),
    [('"""A."""\n\n# Says it.\n#\n# And more.\n\nX = 1\n', ["# Says it."]),
     ('"""A."""\n\n# Of X.\nX = 1\n', []),
     ('TASK = """\n\n# in a text\n\nname = 1\n"""\n', []),
     ("def f():\n    x = 1\n\n    # of what follows\n\n    return x\n", [])],
)  # fmt: skip
def test_the_rule_of_comments_can_fail(text: str, found: list[str]) -> None:
    assert loose_comments(text) == found


def test_importing_every_module_does_nothing_else(tmp_path: Path) -> None:
    """One fresh process imports all modules: no output, no file, no thread, no signal handler, no changed setting."""
    names = [f"weir.{name_of(p)}" for p in MODULES if p.stem != "__main__"]
    program = f"""
import importlib, os, signal, threading
import numpy as np
def facts():
    return np.random.get_state()[1].tolist(), signal.getsignal(signal.SIGINT), threading.active_count(), np.geterr()
before, environment = facts(), dict(os.environ)
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # an extra that is not installed
        if error.name.split(".")[0] == "weir":
            raise
assert facts() == before, (facts()[1:], before[1:])
changed = {{k for k in {{*environment, *os.environ}} if environment.get(k) != os.environ.get(k)}}
assert not {{k for k in changed if not k.startswith(("KMP_", "NUMBA_"))}}, changed
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_no_module_seeds_what_others_share() -> None:
    seeds = {"random.seed", "np.random.seed", "numpy.random.seed"}
    for path in MODULES:
        assert not seeds & facts_of(path).calls, name_of(path)


def test_no_product_module_loads_objects_by_name() -> None:
    found = {(str(path.relative_to(ROOT)), word) for path in MODULES for word in facts_of(path).loads}
    assert found == {(name, "pickle") for name in OWN_FILES}


@pytest.mark.parametrize(
    ("source", "word"),
    [("import pickle", "pickle"), ("from pickle import UnpicklingError, loads", "pickle"), ("eval(x)", "eval"),
     ("np.load(f, allow_pickle=True)", "allow_pickle"), ("torch.load(f)", "torch.load")],
)  # fmt: skip
def test_the_rule_of_objects_can_fail(source: str, word: str) -> None:
    assert {_loads_objects(node) for node in nodes_of(source)} - {""} == {word}


@pytest.mark.parametrize("name", ["faust", "torch", "onnxruntime", "redis"])
def test_the_core_and_the_embedded_host_need_no_heavy_package(name: str) -> None:
    """Nothing on the way of ``weir backtest`` imports what the embedded host does not use."""
    wanted = {p for layer in ("online", "streams/embedded", "streams/embedded") for p in (ROOT / layer).rglob("*.py")}
    assert not [p for p in wanted if name in {n.split(".")[0] for n in facts_of(p).imports}]


def test_what_the_service_answers_and_its_client_reads_is_declared_once() -> None:
    def classes(folder: str) -> set[str]:
        trees = [ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py")]
        return {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}

    client, service = classes("streams/client"), classes("streams/service")
    assert len(client) > 4
    assert {name for name in client & service if not name.startswith("_")} == set()


def test_no_folder_outgrows_a_look_and_names_say_what_they_are() -> None:
    found = measure(ROOT)
    assert found["files in the largest folder"] <= 18, "find a room for the newest of its files"
    assert found["file names used more than once"] <= 20
    assert found["classes named by a participle"] == 0, "name what it is, not what was done to it"
    assert found["comment lines in 100"] >= 2.5
