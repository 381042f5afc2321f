"""Trains one encoder in several processes, by ``torchrun`` and DistributedDataParallel.

``launch`` starts ``torchrun --nproc-per-node N -m weir.models.training.ddp JOB``. JOB is a folder that `write_job` made
and all processes see: ``data.npz``, ``job.json``, a warm start in ``warm/``. The result goes to ``built/``.
``weir.models.training.child_process`` says how the processes are stopped and how they tell their progress.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from weir.models.errors import ModelError
from weir.models.training.child_process import read_progress, stop_with_parent, tell_progress
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import Built, History, Labels, Progress, TrainingSet, TrainingStoppedError

_TAIL = 2_000
_HISTORY = ("entity", "ts", "x", "score", "type", "amount", "item")


def write_job(
    job: Path, data: TrainingSet, settings: EncoderSettings, seed: int, warm_start: Mapping[str, bytes] | None
) -> None:
    """Write what `run_job` needs into the folder ``job``."""
    (job / "warm").mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(data.history, name) for name in _HISTORY}
    arrays |= {f"labels.{f.name}": getattr(data.labels, f.name) for f in fields(Labels)}
    with (job / "data.npz").open("wb") as out:
        np.savez(out, **arrays)
    told = {
        "settings": asdict(settings),
        "seed": seed,
        "warm": sorted(warm_start) if warm_start is not None else None,
        "inputs": data.history.inputs,
        "types": data.history.types,
        "cutoff": data.cutoff,
        "valid_from": data.valid_from,
    }
    for name, content in (warm_start or {}).items():
        (job / "warm" / name).write_bytes(content)
    (job / "job.json").write_text(json.dumps(told))


def run_job(job: Path) -> None:
    """Train what is in the folder, in this process among the others; the first writes the result."""
    told: dict[str, Any] = json.loads((job / "job.json").read_text())
    first, stop = os.environ.get("RANK", "0") == "0", stop_with_parent()
    warm = None if told["warm"] is None else {name: (job / "warm" / name).read_bytes() for name in told["warm"]}
    try:
        built = EncoderBuilder(EncoderSettings.of(told["settings"])).build(
            _read_data(job, told), job, told["seed"], warm_start=warm, progress=tell_progress, stop=stop.is_set
        )
    except TrainingStoppedError as stopped:
        if first:
            (job / "stopped").write_text(str(stopped))
        return
    except ModelError as failed:
        if first:
            (job / "failed").write_text(str(failed))
        raise
    if first:
        _write_built(job / "built", built)


def launch(
    processes: int,
    data: TrainingSet,
    work: Path,
    settings: EncoderSettings,
    seed: int,
    warm_start: Mapping[str, bytes] | None,
    progress: Progress,
    stop: Callable[[], bool],
) -> Built:
    """Train in ``processes`` new processes on this machine and wait for them.

    Raises
    ------
    ModelError
        When a process failed; the text ends with what it said.
    TrainingStoppedError
        When ``stop`` said so.
    """
    job = work / "job"
    write_job(job, data, settings, seed, warm_start)
    for name in ("stopped", "failed", "built/built.json"):
        (job / name).unlink(missing_ok=True)
    status = _run(processes, job, progress, stop)
    if (job / "stopped").exists():
        raise TrainingStoppedError((job / "stopped").read_text())
    if (job / "failed").exists():
        raise ModelError((job / "failed").read_text())
    if status or not (job / "built/built.json").exists():
        said = (job / "log").read_text(errors="replace")[-_TAIL:]
        raise ModelError(f"{processes} processes of torchrun ended with status {status}: {said}")
    return _read_built(job / "built")


def _run(processes: int, job: Path, progress: Progress, stop: Callable[[], bool]) -> int:
    """Start the processes, pass their steps on, and return their exit status; none is left behind."""
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "weir.models.training.ddp", str(job)]
    # Nor may what torchrun starts import a folder `models` of the current directory.
    environ = os.environ | {"PYTHONSAFEPATH": "1"}
    with (
        (job / "log").open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environ) as running,
    ):
        stdin, stdout = running.stdin, running.stdout
        assert stdin is not None
        assert stdout is not None

        def passed_on(what: str, done: int, of: int) -> None:
            progress(what, done, of)
            if stop():
                stdin.close()

        try:
            read_progress(stdout, passed_on)
        except BaseException:  # also Ctrl-C: nothing trains on without us
            running.terminate()
            raise
    return running.returncode


def _read_data(job: Path, told: Mapping[str, Any]) -> TrainingSet:
    with np.load(job / "data.npz") as arrays:
        labels = Labels(*(arrays[f"labels.{f.name}"] for f in fields(Labels)))
        of = {name: arrays[name] for name in _HISTORY}
    ids = [""] * len(of["ts"])
    history = History(inputs=tuple(told["inputs"]), types=tuple(told["types"]), event_id=ids, **of)
    return TrainingSet(history, labels, told["cutoff"], told["valid_from"])


def _write_built(folder: Path, built: Built) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(built.onnx)
    for name, content in built.files.items():
        (folder / name).write_bytes(content)
    told = {name: getattr(built, name) for name in ("kind", "inputs", "state", "embedding", "metrics", "seed")}
    (folder / "built.json").write_text(json.dumps(told | {"files": list(built.files)}))


def _read_built(folder: Path) -> Built:
    told = json.loads((folder / "built.json").read_text())
    told["inputs"] = tuple(told["inputs"])
    told["files"] = {name: (folder / name).read_bytes() for name in told["files"]}
    return Built(onnx=(folder / "model.onnx").read_bytes(), **told)


def main() -> None:
    """Entry point of each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    run_job(parser.parse_args().job)


if __name__ == "__main__":
    main()
