"""Several processes under ``torchrun``: the same model, stopped when asked, none left behind, failures told."""

from __future__ import annotations

import importlib.util
import os
import pickle
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.models.training_data import small
from weir.models.errors import ModelError
from weir.models.training import world
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import TrainingStoppedError
from weir.online.task.full_spec import FullSpec, TrainingSpec
from weir.streams.config.settings import Settings
from weir.streams.trainer.job.job_runner import InlineRunner
from weir.streams.trainer.job.real_steps import kafka_workshop

torch.set_num_threads(1)
TINY = EncoderSettings(
    hidden=4, length=32, warmup=3, batch=8, epochs=1, dropout=0.0, buckets=8, negatives=2, device="cpu"
)
SPEC = FullSpec(
    state=4,
    training=TrainingSpec(
        encoder={
            "length": 32, "warmup": 3, "batch": 8, "epochs": 1, "dropout": 0.0, "buckets": 8, "negatives": 2,
            "device": "cpu",
        }
    ),
)  # fmt: skip
"""What gives ``TINY``."""


@pytest.mark.integration
def test_as_many_processes_as_trainer_processes_says_take_the_same_steps_to_the_same_model(tmp_path: Path) -> None:
    """Also where they were asked to stop, and go on: no step is done twice, and none is left out."""
    data, made, steps = small(300), [], []
    for processes in (1, 2):
        taken: list[tuple[str, int, int]] = []
        settings = Settings.model_validate({"trainer": {"processes": processes, "work": tmp_path / "work"}})
        make = pickle.loads(pickle.dumps(kafka_workshop(settings, InlineRunner()).builders["encoder"]))
        builder = make(SPEC)  # as the process of a job gets it
        out, note = tmp_path / str(processes), lambda *step, to=taken: to.append(step)
        if processes == 2:
            with pytest.raises(TrainingStoppedError):
                builder.build(data, out, 1, progress=note, stop=lambda: True)
        made.append(builder.build(data, out, 1, progress=note))
        steps.append(taken)
    assert (tmp_path / "2" / "job" / "built.pkl").is_file(), "torchrun trained it"
    assert not (tmp_path / "1" / "job").exists()
    assert steps[0] == steps[1]
    assert steps[1][-1][1] == steps[1][-1][2], "to the end"
    here, there = (load(built.files["weights.safetensors"]) for built in made)
    assert all(torch.allclose(here[name], there[name], atol=1e-4) for name in here)
    assert made[1].metrics["valid_average_precision"] == pytest.approx(made[0].metrics["valid_average_precision"], 1e-3)


@pytest.mark.integration
def test_no_process_trains_on_after_the_one_that_started_them_was_killed(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.models.test_training_ddp import TINY, small
from weir.models.training.encoder_builder import EncoderBuilder
from dataclasses import replace
EncoderBuilder(replace(TINY, pretrain_epochs=100_000), processes=2).build(
    small(300), Path({str(tmp_path)!r}), 1, progress=lambda *step: print(*step, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        watched = {os.pidfd_open(pid): pid for pid in running(str(tmp_path / "job"))}
        parent.kill()
    assert len(watched) == 3, "torchrun and two processes"
    ended = select.poll()
    for handle in watched:
        ended.register(handle, select.POLLIN)
    try:
        left = dict(watched)
        while left:
            said = ended.poll(60_000)
            assert said, f"{left} still train"
            for handle, _ in said:
                ended.unregister(handle)
                del left[handle]
    finally:
        for handle in left:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in watched:
            os.close(handle)
    assert (tmp_path / "job" / "checkpoint.safetensors").is_file()


def running(word: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended
            continue
    return found


@pytest.mark.integration
def test_a_failure_is_told_in_the_words_of_the_process(tmp_path: Path) -> None:
    data = replace(small(300), valid_from=0.0)
    with pytest.raises(ModelError, match="lengthen window"):
        EncoderBuilder(TINY, processes=2).build(data, tmp_path, 1)


def test_without_torch_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "weir.models.training.encoder_builder.find_spec", lambda name: None if name == "torch" else found(name)
    )
    with pytest.raises(ModelError, match=r"torch, which is not installed: pip install 'weir\[train\]'"):
        EncoderBuilder(TINY, processes=2).build(small(300), tmp_path, 1)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"2 processes for 1 GPUs: set \[trainer\] processes"), world.join("auto"):
        pass
