"""The process of one step of a job: ``python -m weir.streams.trainer.job.job_process FOLDER``.

It does the work in FOLDER/work.pkl and leaves FOLDER/result.pkl.

Its parent holds its standard input open: when that ends, because the parent asks for a stop or is no more, the work is
asked to stop after a checkpoint, and the process ends after a while whatever happens. It takes less than its share of
the processor where others want it. Progress goes to standard output, one JSON array a line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Final

from weir.models.types import TrainingStoppedError
from weir.online.errors import WeirError
from weir.streams.trainer.job.job_steps import get, put

STOPPED: Final = 75
FAILED: Final = 3
STOP_S: Final = 30.0
_NICE: Final = 10


def main(folder: Path) -> int:
    """Do the work; the exit status, 0 with a result."""
    stop = threading.Event()
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()
    os.nice(_NICE)

    def progress(what: str, done: int, of: int) -> None:
        os.write(1, json.dumps([what, done, of]).encode() + b"\n")

    try:
        put(folder / "result.pkl", get(folder / "work.pkl")(folder, stop.is_set, progress))
    except TrainingStoppedError as stopped:
        _say(folder, str(stopped))
        return STOPPED
    except WeirError as failed:
        _say(folder, str(failed))
        return FAILED
    except Exception as failed:  # noqa: BLE001 - said to the parent, which notes it
        traceback.print_exc()
        _say(folder, f"{type(failed).__name__}: {failed}")
        return FAILED
    return 0


def _watch(stop: threading.Event) -> None:
    """Wait for the end of standard input, then see to it that this process ends too."""
    while os.read(0, 4096):
        pass
    stop.set()
    timer = threading.Timer(STOP_S, os._exit, [STOPPED])
    timer.daemon = True
    timer.start()


def _say(folder: Path, text: str) -> None:
    (folder / "error.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
