"""``weir doctor``: is this machine ready? Each check looks at one thing and says how to mend it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.streams.checks.findings import STYLES, Check, check_codecs, checks_table
from weir.streams.cli.options import ConfigOption
from weir.streams.errors import UsageError, in_words

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Check", "doctor_command", "report", "run_checks"]

REQUIRED: Final = ("msgspec", "numba", "numpy", "orjson", "pyarrow", "pydantic", "rich", "river", "typer")
OPTIONAL: Final = (
    ("aiokafka", "aiokafka", "Kafka client: only to run against a broker"),
    ("cramjam", "cramjam", "compressed records but gzip: only for workers"),
    ("redis", "redis", "Redis client: only for the Redis feature store"),
    ("prometheus-client", "prometheus_client", "metrics: only for workers"),
    ("onnxruntime", "onnxruntime", "ONNX Runtime: only for tasks with [full]"),
    ("torch", "torch", "PyTorch: only to train sequence encoders"),
)
LEAST_DISK_MB: Final = 500
_REDIS_PATIENCE_S: Final = 1.0


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Look at the data of the workers that run here instead, by their metrics.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Check that this machine is ready to run Weir.

    Every line that is not OK says how to mend it. The exit status is 1 when
    something fails; warnings do not count. Redis is looked at too: one that
    the settings name must answer, the default one need not be there.

    For example:

        weir doctor

        weir doctor --live

        weir doctor --json | jq '.checks[] | select(.status != "OK")'
    """
    from rich.console import Console

    from weir.streams.checks.live_checks import check_live
    from weir.streams.config.settings import load_settings

    checks = check_live(load_settings(config).worker) if live else run_checks(config=config)
    failed = sum(check.status == "FAIL" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        Console().print(report(checks))
    if failed:
        raise typer.Exit(1)


def run_checks(config: Path | None = None) -> list[Check]:
    """Run all checks."""
    checks = [Check("Python", "OK", sys.version.split()[0]), *map(check_package, REQUIRED)]
    checks += [
        check_compiles(_compile_with_numba),
        check_cache(_cache_candidates()),
        check_disk(Path.cwd(), shutil.disk_usage(Path.cwd()).free / 1e6),
    ]
    checks += [check_package(*part) for part in OPTIONAL]
    checks.append(check_codecs())
    return checks + check_store(config)


def report(checks: list[Check]) -> RenderableType:
    """The checks as a table with a verdict below."""
    from rich.console import Group
    from rich.text import Text

    counts = {status: sum(check.status == status for check in checks) for status in STYLES}
    if counts["FAIL"]:
        verdict = Text(f"Not ready: {counts['FAIL']} of {len(checks)} checks failed.", style=STYLES["FAIL"])
    else:
        verdict = Text(f"Ready. {counts['OK']} checks passed, {counts['WARN']} with a warning.", style="bold green")
    return Group(checks_table(checks), Text(""), verdict)


def check_package(name: str, module: str = "", purpose: str = "") -> Check:
    """A package can be imported; one that has a ``purpose`` need not be there, which is fine."""
    try:
        found = version(name)
        # Imported, not only found: a wheel for another processor is installed, and fails here.
        importlib.import_module(module or name)
    except PackageNotFoundError:
        if purpose:
            return Check(name, "OK", f"optional, not installed ({purpose})")
        return Check(name, "FAIL", "not installed", "Run 'make install'.")
    # Whatever it is: a wheel that was built for another NumPy raises ValueError or AttributeError.
    except Exception as error:  # noqa: BLE001 - it is the finding
        fix = f"pip install --force-reinstall {name}"
        return Check(name, "WARN" if purpose else "FAIL", f"{found}, but cannot be imported: {in_words(error)}", fix)
    return Check(name, "OK", f"{found} (optional)" if purpose else found)


def check_store(config: Path | None) -> list[Check]:
    """Redis and the registry as the settings name them, and whether passwords go in clear.

    A Redis that nobody named may be missing.
    """
    from weir.streams.checks.link_checks import kafka_warnings
    from weir.streams.checks.live_checks import check_registry
    from weir.streams.checks.redis_checks import check_redis
    from weir.streams.config.settings import RedisSettings, load_settings

    try:
        settings = load_settings(config)
    except UsageError as error:
        return [Check("settings", "FAIL", str(error), "Correct the settings.")]
    found = check_redis(settings.redis, _REDIS_PATIENCE_S)
    # The defaults are nobody's wish: without workers there is no Redis.
    if settings.redis == RedisSettings() and found[0].status == "FAIL":
        found = [Check("Redis", "OK", f"optional, {found[0].found} (Redis server: only for workers)")]
    return [*found, *kafka_warnings(settings.kafka), check_registry(settings.models.registry)]


def check_compiles(compile_and_run: Callable[[], float]) -> Check:
    """Numba compiles and runs a function."""
    started = time.perf_counter()
    try:
        result = compile_and_run()
    except Exception as error:  # noqa: BLE001 - whatever LLVM throws is the finding
        return Check(
            "Numba compiles", "FAIL", f"{type(error).__name__}: {error}", "pip install --force-reinstall numba"
        )
    if result != 10.0:
        return Check("Numba compiles", "FAIL", f"computed {result}, not 10", "pip install --force-reinstall numba")
    return Check("Numba compiles", "OK", f"in {time.perf_counter() - started:.1f} s")


def check_cache(candidates: list[Path]) -> Check:
    """One of the places where Numba keeps compiled kernels can be written to."""
    for folder in candidates:
        if is_writable(folder):
            return Check("Numba cache", "OK", str(folder))
    tried = ", ".join(map(str, candidates))
    return Check("Numba cache", "WARN", f"not writable: {tried}",
                 "Set NUMBA_CACHE_DIR to a writable folder, or every start compiles anew.")  # fmt: skip


def check_disk(folder: Path, free_mb: float) -> Check:
    """The current folder can be written to and has room."""
    found = f"{free_mb / 1e3:.1f} GB in {folder}"
    if not is_writable(folder):
        return Check("disk", "WARN", f"{folder} is not writable", "Change to a folder you can write to, or give --out.")
    if free_mb < LEAST_DISK_MB:
        return Check("disk", "WARN", found, f"Free {LEAST_DISK_MB} MB, or write elsewhere with --out.")
    return Check("disk", "OK", found)


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in ``folder``, or in its nearest parent that exists if it can be created."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache_candidates() -> list[Path]:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen)]
    # In the order in which Numba tries them.
    return [Path(__file__).resolve().parents[3] / "online" / "__pycache__", Path.home() / ".cache" / "numba"]


def _compile_with_numba() -> float:
    from numba import njit

    @njit()
    def total(n: float) -> float:
        result = 0.0
        while n > 0.0:
            result += n
            n -= 1.0
        return result

    return total(4.0)
