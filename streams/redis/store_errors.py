"""Errors of the stores, by the action each one causes.

ShellError (weir.streams.errors)
├── StoreUnavailable   reach Redis; nothing is lost, the worker repeats what it had not written
│   └── StoreRefused   Redis is there and says no: correct the settings, the user's rights or the certificates
└── LaneMoved          drop what is cached of the lane and go back to where its record is
"""

from __future__ import annotations

from weir.streams.errors import ShellError


class StoreUnavailable(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """Redis did not answer, or could not write, for longer than our patience."""


class StoreRefused(StoreUnavailable):
    """Redis answered, and waiting will not help: a wrong password, a missing right, no TLS, too old a version."""


class LaneMoved(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """The lane's record is not where this worker left it; nothing was written.

    Another worker owns the lane now, or Redis came back from a crash without its last second.
    """

    def __init__(self, lane: tuple[str, int], expected: int | None, actual: int | None) -> None:
        super().__init__(
            f"{lane[0]}-{lane[1]}: its record in Redis says next offset {_say(actual)}, this worker left it at "
            f"{_say(expected)}: another worker wrote, or Redis lost its last second; nothing was written"
        )
        self.lane, self.expected, self.actual = lane, expected, actual

    def __reduce__(self) -> tuple[type[LaneMoved], tuple[tuple[str, int], int | None, int | None]]:
        return type(self), (self.lane, self.expected, self.actual)


def _say(offset: int | None) -> str:
    return "none" if offset is None else str(offset)
