"""Trains one encoder in several processes, by ``torchrun`` and DistributedDataParallel.

``launch`` starts ``torchrun --nproc-per-node N -m weir.models.training.ddp JOB``. JOB is a folder that all processes
see, with what is to be done in ``job.pkl``; the result goes to ``built.pkl``. Both are pickled, as everything in the
trainer's work directory is, which only its user can enter.
``weir.models.training.child_process`` says how the processes are stopped and how they tell their progress.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from weir.models.durable import write_durably
from weir.models.errors import ModelError
from weir.models.training.child_process import read_progress, stop_with_parent, tell_progress, tell_unable
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import Built, Progress, TrainingSet, TrainingStoppedError

_TAIL = 2_000
_JOB, _BUILT, _STOPPED, _FAILED = "job.pkl", "built.pkl", "stopped", "failed"


def run_job(job: Path) -> None:
    """Train what is in the folder, in this process among the others; the first writes the result."""
    first, stop = os.environ.get("RANK", "0") == "0", stop_with_parent()
    settings, data, seed, warm_start = pickle.loads((job / _JOB).read_bytes())
    try:
        built = EncoderBuilder(settings).build(
            data, job, seed, warm_start=warm_start, progress=tell_progress, stop=stop.is_set
        )
        if first:
            write_durably(job / _BUILT, lambda file: pickle.dump(built, file))
    except TrainingStoppedError as stopped:
        if first:
            (job / _STOPPED).write_text(str(stopped))
        return
    except ModelError as failed:
        if first:
            (job / _FAILED).write_text(str(failed))
        raise  # torchrun then ends the other processes, which would wait for this one
    except OSError as unable:
        tell_unable(unable)
        raise


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
    OSError
        When a process could not read or write a file.
    """
    job = work / "job"
    job.mkdir(parents=True, exist_ok=True)
    # What an earlier run left would pass for what this one came to.
    for name in (_STOPPED, _FAILED, _BUILT):
        (job / name).unlink(missing_ok=True)
    warm = dict(warm_start) if warm_start is not None else None  # read-only views cannot be pickled
    (job / _JOB).write_bytes(pickle.dumps((settings, data, seed, warm), protocol=5))
    status, unable = _run(processes, job, progress, stop)
    if status and unable:
        raise OSError(unable)
    if (job / _STOPPED).exists():
        raise TrainingStoppedError((job / _STOPPED).read_text())
    if (job / _FAILED).exists():
        raise ModelError((job / _FAILED).read_text())
    if status or not (job / _BUILT).exists():
        said = (job / "log").read_text(errors="replace")[-_TAIL:]
        raise ModelError(f"{processes} processes of torchrun ended with status {status}: {said}")
    built: Built = pickle.loads((job / _BUILT).read_bytes())
    return built


def _run(processes: int, job: Path, progress: Progress, stop: Callable[[], bool]) -> tuple[int, str | None]:
    """Start the processes, and pass their steps on; none is left behind.

    Returns their exit status, and which file one of them could not read or write.
    """
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "weir.models.training.ddp", str(job)]
    # Nor may what torchrun starts import a folder `models` of the current directory.
    environ = os.environ | {"PYTHONSAFEPATH": "1"}
    # Errors go to a file: nobody reads a pipe of them while it trains, and a full one would stop all processes.
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
            unable = read_progress(stdout, passed_on)
        except BaseException:  # also Ctrl-C: nothing trains on without us
            running.terminate()
            raise
    return running.returncode, unable


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
