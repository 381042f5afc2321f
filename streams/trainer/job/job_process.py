"""The process of one step of a job: ``python -m weir.streams.trainer.job.job_process FOLDER``.

It does the work in FOLDER/work.pkl and leaves FOLDER/result.pkl.

``weir.models.training.child_process`` says how it is stopped and how it tells its progress. It takes less than its
share of the processor where others want it.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Final

from weir.models.training.child_process import STOPPED, stop_with_parent, tell_progress
from weir.models.types import TrainingStoppedError
from weir.online.errors import WeirError
from weir.streams.trainer.job.job_steps import get, put

FAILED: Final = 3
_NICE: Final = 10


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
    except WeirError as failed:
        _say(folder, str(failed))
        return FAILED
    except Exception as failed:  # noqa: BLE001 - said to the parent, which notes it
        traceback.print_exc()
        _say(folder, f"{type(failed).__name__}: {failed}")
        return FAILED
    return 0


def _say(folder: Path, text: str) -> None:
    (folder / "error.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
