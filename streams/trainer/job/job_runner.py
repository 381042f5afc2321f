"""Where work is done: in a process of its own, so that whatever happens to it the trainer goes on; or here.

``python -m weir.streams.trainer.job.job_runner FOLDER`` is that process: it does the work in FOLDER/work.pkl and leaves
FOLDER/result.pkl. ``weir.models.training.child_process`` says how it is stopped and how it tells its progress. It takes
less than its share of the processor where others want it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from weir.models.errors import ModelError
from weir.models.training.child_process import (
    STOPPED,
    UNABLE,
    read_progress,
    stop_with_parent,
    tell_progress,
    tell_unable,
)
from weir.models.types import Progress, TrainingStoppedError
from weir.online.errors import WeirError
from weir.streams.trainer.job.job_steps import JobSteps, get, put
from weir.streams.trainer.trainer_errors import WorkDiedError

_LOOK_S: Final = 0.2
_LAST_WORDS: Final = 1_000
_FAILED: Final = 3
_NICE: Final = 10


class Runner(Protocol):
    """Port: carries out one piece of work of a job, somewhere."""

    def run(self, work: JobSteps, folder: Path, stop: Callable[[], bool], progress: Progress) -> Any:
        """Its result.

        Raises
        ------
        ModelError
            The work says that it cannot be done.
        TrainingStoppedError
            It was asked to stop.
        WorkDiedError
            Its process was killed, or ended without a word.
        OSError
            A file could not be read or written, such as for want of space: the same work may succeed later.
        """


class InlineRunner:
    """Here and now: for tests, and where a process of its own is too dear."""

    def run(self, work: JobSteps, folder: Path, stop: Callable[[], bool], progress: Progress) -> Any:
        """See ``Runner``."""
        folder.mkdir(parents=True, exist_ok=True)
        return work(folder, stop, progress)


class SubprocessRunner:
    """A fresh Python for each piece of work; ``-P`` keeps it from importing what lies in the current directory.

    Parameters
    ----------
    grace_s : how long it may take to write its checkpoint when asked to stop.
    """

    def __init__(self, grace_s: float = 20.0) -> None:
        self._grace_s = grace_s

    def run(self, work: JobSteps, folder: Path, stop: Callable[[], bool], progress: Progress) -> Any:
        """See ``Runner``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("result.pkl", "error.txt"):
            (folder / name).unlink(missing_ok=True)  # of the run before: its result is not this one's
        (folder / "work.pkl").write_bytes(pickle.dumps(work, protocol=5))
        # To a file: a pipe that nobody reads stops the child once it is full.
        with (folder / "output.log").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "weir.streams.trainer.job.job_runner", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                # What this process can import, so that a checkout works; '' is the current directory, which -P keeps
                # out.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,  # Ctrl-C is for the trainer, which asks it to stop
            )  # fmt: skip
            unable: list[str] = []
            status = self._follow(process, stop, progress, unable)
        if status == UNABLE:
            raise OSError("".join(unable))
        return self._result(folder, status)

    def _follow(
        self, process: subprocess.Popen[bytes], stop: Callable[[], bool], progress: Progress, unable: list[str]
    ) -> int:
        """Pass its progress on until it ends; its exit status. ``unable`` gets why it could not go on."""

        def read() -> None:
            assert process.stdout is not None
            if words := read_progress(process.stdout, progress):
                unable.append(words)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while not stop():
                try:
                    return process.wait(_LOOK_S)
                except subprocess.TimeoutExpired:
                    continue
            if process.stdin is not None:
                # The end of its input asks it to stop: no signal, so that it works through torchrun, too.
                process.stdin.close()
            return process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            # It has not stopped in time: to be killed now, and tried again as one that did.
            return STOPPED
        finally:
            _end(process)
            reader.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    @staticmethod
    def _result(folder: Path, status: int) -> Any:
        said = folder / "error.txt"
        words = said.read_text(encoding="utf-8") if said.is_file() else ""
        if status == 0 and (folder / "result.pkl").is_file():
            return get(folder / "result.pkl")
        if status == STOPPED:
            raise TrainingStoppedError(words or "asked to stop; it had not written a checkpoint in time")
        if status == _FAILED and words:
            raise ModelError(words)
        last = (folder / "output.log").read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
        raise WorkDiedError(f"its process {_how(status)}{f'; its last words: {last}' if last else ''}")


def _how(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed: see whether the machine ran out of memory, and shorten window in [full.training]"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no process behind."""
    if process.poll() is None:
        process.kill()
        process.wait()


def main(folder: Path) -> int:
    """Do the work; the exit status, 0 with a result."""
    stop = stop_with_parent()
    os.nice(_NICE)  # scoring on the same machine goes first
    try:
        put(folder / "result.pkl", get(folder / "work.pkl")(folder, stop.is_set, tell_progress))
    # An exit status of its own: that it was asked to stop is no failure of the candidate.
    except TrainingStoppedError as stopped:
        _say(folder, str(stopped))
        return STOPPED
    except OSError as failed:
        tell_unable(failed)
        return UNABLE
    except WeirError as failed:
        _say(folder, str(failed))
        return _FAILED
    except Exception as failed:  # noqa: BLE001 - said to the parent, which notes it
        traceback.print_exc()
        _say(folder, f"{type(failed).__name__}: {failed}")
        return _FAILED
    return 0


def _say(folder: Path, text: str) -> None:
    (folder / "error.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
