"""Errors of the stores, by the action each one causes.

ShellError (weir.streams.errors)
├── StoreUnavailable   reach Redis; nothing is lost, the worker repeats what it had not written
│   └── StoreRefused   Redis is there and says no: correct the settings, the user's rights or the certificates
└── LaneMoved          drop what is cached of the lane and go back to where its record is
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

from redis import exceptions as rx

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


_LATER: Final = (
    rx.ConnectionError,  # also LOADING
    rx.TimeoutError,
    rx.ReadOnlyError,
    rx.MasterDownError,
    rx.AskError,  # also MOVED
    rx.TryAgainError,
    rx.ClusterDownError,
    OSError,
    TimeoutError,
)
_LATER_CODES: Final = ("MISCONF", "OOM", "BUSY", "NOREPLICAS", "LOADING", "READONLY", "MASTERDOWN")
_NO_WRITES_CODES: Final = ("MISCONF", "OOM", "NOREPLICAS", "READONLY")
_NOT_PRIMARY_CODES: Final = ("READONLY", "MASTERDOWN", "LOADING")
_NO_RIGHT_IN_SCRIPT: Final = ("-NOPERM", "The user executing the script can't")
_TLS_FIXES: Final = {
    "WRONG_VERSION_NUMBER": "the server speaks no TLS: write redis:// in redis.url, or give its TLS port",
    "RECORD_LAYER_FAILURE": "the server speaks no TLS: write redis:// in redis.url, or give its TLS port",
    "CERTIFICATE_REQUIRED": "the server wants a certificate of ours: set redis.cert_file and redis.key_file",
    "UNKNOWN_CA": "the server does not trust our certificate: correct redis.cert_file, or its tls-ca-cert-file",
    "BAD_CERTIFICATE": "the server does not accept our certificate: correct redis.cert_file",
}


def refusal(exc: BaseException, acl: str) -> str | None:
    """Why waiting will not help, in a sentence without secrets; ``None`` where it may.

    ``acl`` is the line that gives the user its rights.
    """
    text = str(exc)
    if isinstance(exc, rx.AuthenticationError | rx.AuthenticationWrongNumberOfArgsError):
        return f"it did not accept our login ({text}): correct redis.username and redis.password"
    if isinstance(exc, rx.NoPermissionError) or any(sign in text for sign in _NO_RIGHT_IN_SCRIPT):
        return f"our user lacks a right ({text}): in the ACL file it needs: {acl}"
    # redis-py wraps what TLS says in errors of connections, several deep.
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return f"its certificate is not one we trust ({why}): set redis.ca_file, or the right host"
        if isinstance(cause, ssl.SSLError):
            fix = next((fix for reason, fix in _TLS_FIXES.items() if reason in (cause.reason or "")), None)
            if fix is not None:
                return fix
    return None


def passing(exc: BaseException) -> str | None:
    """What is the matter where waiting may help; ``None`` for what is a mistake of ours."""
    text = str(exc)
    code = _code(exc, text)
    if code == "MISCONF":
        return "it cannot write to its disk (MISCONF): look at its log and free space"
    if code == "OOM":
        return "it is out of memory (OOM): raise maxmemory, or give rows a shorter time to live"
    if code is not None or isinstance(exc, _LATER):
        return text.rstrip(".") or type(exc).__name__
    return None


def refuses_writes(exc: BaseException) -> bool:
    """Whether the server is there and answers, and takes no writes for now.

    >>> refuses_writes(rx.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."))
    True
    """
    return _code(exc, str(exc)) in _NO_WRITES_CODES


def not_primary(exc: BaseException) -> bool:
    """Whether the server that answered is not, or not yet, the one to write to: connections to it lead nowhere.

    >>> not_primary(rx.ResponseError("READONLY You can't write against a read only replica."))
    True
    """
    return isinstance(exc, rx.BusyLoadingError) or _code(exc, str(exc)) in _NOT_PRIMARY_CODES


def _code(exc: BaseException, text: str) -> str | None:
    if isinstance(exc, rx.OutOfMemoryError):
        return "OOM"
    if isinstance(exc, rx.ReadOnlyError | rx.MasterDownError):  # redis-py takes the code off the text
        return "READONLY" if isinstance(exc, rx.ReadOnlyError) else "MASTERDOWN"
    if not isinstance(exc, rx.ResponseError):
        return None
    # Before version 7 an error inside a script stands at the end of one about the script.
    return next((code for code in _LATER_CODES if text.startswith(code) or f"-{code}" in text), None)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = exc
    # Causes and contexts may form a ring.
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
