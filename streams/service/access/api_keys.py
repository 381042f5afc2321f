"""API keys of programs: ``weir_ID_SECRET``. Only a digest of the secret is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Engine, insert, select, update

from weir.online.codec.wire import ID_CHARS
from weir.streams.errors import UsageError
from weir.streams.service.access.roles import ROLES, SCOPES
from weir.streams.service.access.scopes import Caller, limited
from weir.streams.service.store.tables import API_KEYS, execute, fetched
from weir.streams.text import printable

# The 43 characters are what ``token_urlsafe(32)`` makes of 32 bytes.
_KEY: Final = re.compile(r"weir_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without its secret.

    Parameters
    ----------
    id : the part of the key that may be shown.
    name : what people call the program that has it.
    secret_sha256 : of its secret, 256 random bits: no slower digest is needed, as nobody can try them all.
    role, scopes : what it allows; one of them is given.
    tasks : the only tasks it is allowed for; ``None`` for all.
    requests_per_s, records_per_s : instead of the limits of ``[serve.access]``.
    created_at, created_by, expires_at, revoked_at : epoch seconds, and who.
    """

    id: str
    name: str
    secret_sha256: str
    role: str | None
    scopes: tuple[str, ...]
    tasks: tuple[str, ...] | None
    requests_per_s: float | None
    records_per_s: float | None
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None = None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def proved_by(self, secret: str) -> bool:
        """Whether ``secret`` is the key's, compared in a time that does not depend on it."""
        return hmac.compare_digest(self.secret_sha256, digest(secret))

    def caller(self) -> Caller:
        """Who holds it."""
        scopes, tasks = limits_of(self.role, self.scopes, self.tasks)
        limits = (self.requests_per_s, self.records_per_s)
        return Caller(f"key:{self.id}", self.name, "key", scopes, tasks, self.expires_at, *limits)

    def shown(self, now: float) -> dict[str, Any]:
        """What people and programs are told: all but the digest."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "secret_sha256"}
        return {**told, "state": self.state(now)}


def limits_of(
    role: str | None, scopes: Iterable[str], tasks: Iterable[str] | None
) -> tuple[frozenset[str], frozenset[str] | None]:
    """Scopes and tasks of a key of this role, or these scopes; raises ``UsageError`` for what is none."""
    scopes = frozenset(scopes)
    if (role is None) == (not scopes):
        raise UsageError("a key has a role, or scopes: give one of them")
    if role is not None and role not in ROLES:
        raise UsageError(f"role {printable(role, 80)!r}: give {', '.join(ROLES)}")
    if unknown := sorted(scopes - set(SCOPES)):
        raise UsageError(f"scope {printable(unknown[0], 80)!r}: give some of {', '.join(SCOPES)}")
    return limited(scopes if role is None else ROLES[role], tasks)


def digest(secret: str) -> str:
    """SHA-256 of a random secret, in hex: what a stolen database tells of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parts_of(text: str) -> tuple[str, str] | None:
    """Id and secret of a key as it is written; ``None`` for what is none.

    >>> parts_of("weir_0123456789ab_" + "s" * 43)[0], parts_of("weir_1_2")
    ('0123456789ab', None)
    """
    found = _KEY.fullmatch(text)
    return (found[1], found[2]) if found else None


class KeyStore:
    """Keys in the database; it may be used while the service runs, and while it does not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        *,
        role: str | None = None,
        scopes: Sequence[str] = (),
        tasks: Sequence[str] | None = None,
        expires_at: float | None = None,
        requests_per_s: float | None = None,
        records_per_s: float | None = None,
        by: str,
        now: float,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is nowhere else; raises ``UsageError`` for a role or scope that is none."""
        # Only for what it refuses.
        limits_of(role, scopes, tasks)
        if not (0 < len(name) <= ID_CHARS and name.isprintable()):
            raise UsageError(f"name {printable(name, 80)!r}: give 1 to {ID_CHARS} characters that print")
        if expires_at is not None and expires_at <= now:
            raise UsageError("the key would have expired already; give a time to come")
        secret = secrets.token_urlsafe(32)
        limited_to = None if tasks is None else tuple(sorted(tasks))
        key = ApiKey(
            secrets.token_hex(6), name, digest(secret), role, tuple(sorted(scopes)), limited_to, requests_per_s,
            records_per_s, now, by, expires_at,
        )  # fmt: skip
        execute(self._engine, insert(API_KEYS).values({f.name: getattr(key, f.name) for f in fields(key)}))
        return key, f"weir_{key.id}_{secret}"

    def all(self) -> list[ApiKey]:
        """Every key there was, oldest first."""
        return [_key(row) for row in fetched(self._engine, select(API_KEYS).order_by(API_KEYS.c.created_at))]

    def find(self, id_: str) -> ApiKey | None:
        """The key of an id."""
        found = fetched(self._engine, select(API_KEYS).where(API_KEYS.c.id == id_))
        return _key(found[0]) if found else None

    def revoke(self, id_: str, now: float) -> ApiKey:
        """End a key for good; raises ``UsageError`` where there is none of this id. Twice is once."""
        # When it ended first is kept, whoever ends it once more.
        mine = update(API_KEYS).where(API_KEYS.c.id == id_, API_KEYS.c.revoked_at.is_(None))
        execute(self._engine, mine.values(revoked_at=now))
        key = self.find(id_)
        if key is None:
            raise UsageError(f"no key {id_!r}; weir keys list shows them all")
        return key


def _key(row: Any) -> ApiKey:
    found = row._asdict()
    tasks = found.pop("tasks")
    return ApiKey(**{**found, "scopes": tuple(found["scopes"])}, tasks=None if tasks is None else tuple(tasks))
