"""Errors of the shell, by the action each one causes.

WeirError (weir.online.errors)
├── TaskError          correct the task file
├── StateError         rebuild the state, or go back to the version that wrote it
├── VersionNotKept     (weir.streams.model_replicas.timeline) rebuild that version from the log
└── ShellError
    ├── UsageError     correct the command, the settings or the input file; exit status 2
    ├── BrokerError    reach the brokers, or get the right that they refused; exit status 2
    ├── LogError       the log on disk is not one we can read; nothing was changed
    │   ├── LogFull    make room; the log is as it was, and goes on when there is room
    │   └── RecordsDropped  read from the first record that is kept
    ├── PartitionError pause this partition, say why, and serve the others
    │   └── TooManyRejects  most of its input is bad, and going on would only fill the dead letters
    ├── of weir.streams.kafka: DeliveryError (restart the worker), RecordTooLarge, RecordsDeleted
    ├── of weir.streams.redis: StoreUnavailable (reach Redis), StoreRefused (correct its settings or rights), LaneMoved
    │   (go back to where the store is), StepsTaken and StepsLost (load the lane again)
    ├── ReplicaDiverged    stop the worker; after a restart it takes the stored model, as the others did
    └── FollowerBehind     wait longer, or see why the examples do not come
"""

from __future__ import annotations

from weir.online.errors import StateError as StateError  # for whoever catches errors of the shell
from weir.online.errors import TaskError as TaskError
from weir.online.errors import WeirError as WeirError


def in_words(error: BaseException) -> str:
    """What an error says; with its type where that is not one of ours, whose messages say all, or where it is silent.

    >>> in_words(TimeoutError()), in_words(ShellError("no room")), in_words(OSError("no room"))
    ('TimeoutError', 'no room', 'OSError: no room')
    """
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text if isinstance(error, WeirError) else f"{type(error).__name__}: {text}"


class ShellError(WeirError):
    """Raised by the code around the stages."""


class UsageError(ShellError):
    """The command, a setting or an input file is wrong; the message says how to correct it."""


class BrokerError(ShellError):
    """The brokers cannot be reached, or refused; the message names their address and what to check."""


class LogError(ShellError):
    """A log directory holds something this version cannot read."""


class LogFull(LogError):  # noqa: N818 - named for what happened, as the tree above reads
    """There is no room for what was to be appended: nothing of it was."""


class RecordsDropped(LogError):  # noqa: N818 - named for what happened, as the tree above reads
    """Retention took what was to be read.

    Parameters
    ----------
    what : topic and partition, and the offset that was wanted.
    first : offset of the first record that is kept.
    """

    def __init__(self, what: str, first: int) -> None:
        super().__init__(f"{what} is no longer kept; the first record that is has offset {first}")
        self.first = first


class PartitionError(ShellError):
    """One partition cannot be processed as it is, and the others can: the worker pauses it and says why."""


class TooManyRejects(PartitionError):  # noqa: N818 - named for what happened, as the tree above reads
    """The share of bad records passed the limit: going on would bury the partition's input in dead letters."""


class ReplicaDiverged(ShellError):  # noqa: N818 - named for what happened, as the tree above reads
    """Two workers learned the same examples and hold different models."""


class FollowerBehind(ShellError):  # noqa: N818 - named for what happened, as the tree above reads
    """A version that another worker has reached did not come here in time."""
