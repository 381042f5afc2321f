from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from weir.streams.checks.state_checks import stages_of
from weir.streams.cli.operate import doctor
from weir.streams.cli.operate.doctor import Check
from weir.streams.errors import StateError


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(doctor.doctor_command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_this_machine_is_ready() -> None:
    status, output = run()
    assert status == 0
    assert "Ready." in output
    assert all(name in output for name in ("Python", "numba", "Numba compiles", "disk", "redis"))


def test_json_holds_the_same_checks() -> None:
    status, output = run("--json")
    found = json.loads(output)
    assert status == 0
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == [check.name for check in doctor.run_checks()]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_failure_gives_status_1_and_the_fix(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("a_package_that_is_not_there",))
    status, output = run(*arguments)
    assert status == 1
    assert "a_package_that_is_not_there" in output
    assert "make install" in output


def test_warnings_do_not_change_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda **_: [Check("disk", "WARN", "full", "Free some.")])
    status, output = run()
    assert status == 0
    assert "Free some." in output


def test_optional_parts_may_be_missing() -> None:
    check = doctor.check_package("no_such_package", "no_such_package", "only to dream")
    assert check.status == "OK"
    assert "optional, not installed" in check.found


def test_a_package_that_cannot_be_imported_fails_or_warns() -> None:
    assert doctor.check_package("numpy", "no_such_module").status == "FAIL"
    assert doctor.check_package("numpy", "no_such_module", "only to dream").status == "WARN"


def test_an_import_that_fails_in_any_way_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_for_another_numpy.py").write_text("raise ValueError('numpy.dtype size changed')")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package("numpy", "built_for_another_numpy")
    assert check.status == "FAIL"
    assert "numpy.dtype size changed" in check.found


def broken() -> float:
    raise RuntimeError("LLVM is upset")


@pytest.mark.parametrize(("compiled", "status"), [(broken, "FAIL"), (lambda: 9.0, "FAIL"), (lambda: 10.0, "OK")])
def test_numba_must_compile_and_compute(compiled: Callable[[], float], status: str) -> None:
    assert doctor.check_compiles(compiled).status == status


def test_the_cache_may_be_in_any_writable_place(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert doctor.check_cache([blocked, tmp_path / "to" / "be" / "made"]).status == "OK"
    check = doctor.check_cache([blocked])
    assert check.status == "WARN"
    assert "NUMBA_CACHE_DIR" in check.fix
    assert not (tmp_path / "to").exists()


def test_little_room_on_the_disk_is_a_warning(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, 10.0).status == "WARN"
    assert doctor.check_disk(tmp_path, 10_000.0).status == "OK"


def test_the_report_names_every_check_and_counts_failures() -> None:
    checks = [Check("a", "OK", "fine"), Check("b", "FAIL", "broken", "mend it"), Check("c", "WARN", "odd", "look")]
    console = Console(file=io.StringIO(), width=80)
    console.print(doctor.report(checks))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "mend it" in text
    assert "Not ready: 1 of 3 checks failed." in text


@pytest.mark.parametrize("snapshot", [b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"other": 1})])
def test_what_is_no_snapshot_of_a_label_lane_is_a_finding_and_no_traceback(snapshot: bytes) -> None:
    with pytest.raises(StateError, match="not a snapshot of a label lane"):  # check_state makes a finding of it
        stages_of(snapshot)
    held = {"positions": {"a": 1}, "stages": {"fraud": b"state"}}
    assert stages_of(msgspec.msgpack.encode(held)) == {"fraud": b"state"}
