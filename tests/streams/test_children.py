"""Processes that Weir starts import Weir, not what somebody left in the directory where it was started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.streams.test_trainer_runner import build, silent
from weir.models.training.ddp import _run
from weir.streams.cli.processes.worker import WORKER
from weir.streams.trainer.job.job_runner import InlineRunner, SubprocessRunner
from weir.streams.trainer.job.job_steps import get


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory whose packages write down that they were imported."""
    place = tmp_path / "place"
    for package in ("models", "online", "streams", "torch", "numpy"):
        (place / package).mkdir(parents=True)
        (place / package / "__init__.py").write_text(f"open({str(place / 'ran')!r}, 'a').write('{package} ')\n")
    monkeypatch.chdir(place)
    return place


def test_processes_of_a_worker_do_not(hostile: Path) -> None:
    done = subprocess.run([*WORKER, "--help"], check=True, capture_output=True, text=True, timeout=120)
    assert "weir worker" in done.stdout
    assert not (hostile / "ran").exists()


def test_the_trainers_child_does_not(hostile: Path, tmp_path: Path) -> None:
    SubprocessRunner().run(build(tmp_path, "well"), tmp_path / "apart", lambda: False, silent)
    InlineRunner().run(build(tmp_path, "well"), tmp_path / "here", lambda: False, silent)
    assert get(tmp_path / "out.built") is not None
    assert not (hostile / "ran").exists()


def test_what_torchrun_starts_does_not(hostile: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    status, _ = _run(1, job, silent, lambda: False)
    assert status != 0, "there is no job here"
    assert "No such file" in (job / "log").read_text()
    assert not (hostile / "ran").exists()
