"""Stored models in Redis: any worker writes them, every worker starts from the newest that fits its task.

Keys: ``<prefix>:{models}:<task>`` is a sorted set of ``<version>:<fit>``; ``<prefix>:{models}:<task>:<version>:<fit>``
is one model's header, whose parts lie beside it. All replicas are equal, so a version is written once; another digest
at the same version means that they are not.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from weir.online.errors import UNREADABLE, StateError
from weir.online.stages.quarantine import Quarantine
from weir.streams.errors import ReplicaDiverged, ShellError, in_words
from weir.streams.model_replicas.fold import ExampleFold, FoldState
from weir.streams.redis.blobs import BlobRef, get_blob, put_blob
from weir.streams.redis.client import RedisClient
from weir.streams.redis.resp import Script

log = logging.getLogger(__name__)

NEWEST: Final = 8
OF_OTHER_FIT: Final = 2
"""Models of another task file that are kept: during a rolling restart both kinds of worker need theirs."""

# KEYS: header, index, parts of the model. ARGV: digest, header, version, member.
_SAVE: Final = Script("""
local held = redis.call('HGET', KEYS[1], 'digest')
if held then return held end
for i = 3, #KEYS do
  if redis.call('PERSIST', KEYS[i]) == 0 then return redis.error_reply('a part of the model expired: ' .. KEYS[i]) end
end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'header', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
return false
""")


class _Header(msgspec.Struct, frozen=True):
    """What is said of a stored model; ``features`` is for people."""

    version: int
    next_offset: int
    digest: str
    fit: str
    features: tuple[str, ...]
    model: BlobRef
    identities: BlobRef
    quarantines: tuple[Quarantine, ...] = ()


def kept_versions(versions: Sequence[int], newest: int = NEWEST) -> set[int]:
    """Which of the stored versions to keep: the newest, and ever fewer of the older.

    Of those between 2^k and 2^(k+1) examples behind the newest one is kept, the oldest; so a model as of any time can
    be had by learning at most about as many examples again as have come since.

    >>> sorted(kept_versions(range(0, 1000, 10), newest=3))
    [0, 480, 740, 870, 930, 960, 970, 980, 990]
    """
    ordered = sorted(versions, reverse=True)
    kept, last = set(ordered[:newest]), dict[int, int]()
    for version in ordered[newest:]:
        last[(ordered[0] - version).bit_length()] = version
    return kept | {*last.values()} | {*ordered[-1:]}


class ModelSnapshots:
    """The stored models of every task."""

    def __init__(self, link: RedisClient) -> None:
        self._link = link

    async def save(self, fold: ExampleFold, state: FoldState) -> bool:
        """Store ``state`` unless its version is stored; whether it was written.

        Raises
        ------
        ReplicaDiverged
            That version is stored with another digest.
        """
        key = self._key(fold.task, state.version, fold.fit)
        # Asked before the blobs are written: mostly another worker has stored the version already.
        if await self._agrees(fold, state, await self._link.execute("HGET", key, "digest")):
            return False
        # Names of its own, so that two workers that store one version do not write into each other's parts.
        token = secrets.token_hex(4)
        model = await put_blob(self._link, f"{key}:{token}:model", state.model)
        identities = await put_blob(self._link, f"{key}:{token}:identities", state.identities)
        header = _Header(
            version=state.version,
            next_offset=state.next_offset,
            digest=state.digest,
            fit=fold.fit,
            features=fold.features,
            model=model,
            identities=identities,
            quarantines=state.quarantines,
        )
        keys = [key, self._index(fold.task), *model.part_keys(), *identities.part_keys()]
        member = f"{state.version}:{fold.fit}"
        args: list[bytes | str | int] = [state.digest, msgspec.msgpack.encode(header), state.version, member]
        held = await self._link.run(_SAVE, keys, args)
        if await self._agrees(fold, state, held):  # another worker was first, or our own first try was heard
            return False
        # By whoever wrote: a fleet would else look through the index at each version, all at once.
        await self._thin(fold)
        return True

    async def _agrees(self, fold: ExampleFold, state: FoldState, held: bytes | None) -> bool:
        """Whether the version is stored; raises when its digest is another one."""
        if held is not None and held.decode() != state.digest:
            raise ReplicaDiverged(
                f"task {fold.task}: at version {state.version} this worker's model has digest {state.digest}, the "
                f"stored one {held.decode()}: they learned the same examples and differ. Run the same release on "
                "processors of one kind; after a restart this worker takes the stored model"
            )
        return held is not None

    async def newest(
        self, fold: ExampleFold, *, at_most: int | None = None, usable: Callable[[int], bool] | None = None
    ) -> FoldState | None:
        """The newest stored model that fits, of version ``at_most`` or older; ``None`` when there is none.

        ``usable`` is told how far a model has read the log, and says whether it may be it.
        """
        bound = "+inf" if at_most is None else at_most
        index = self._index(fold.task)
        members = await self._link.execute("ZREVRANGEBYSCORE", index, bound, "-inf")
        fitting = [version for version, fit in _split(members) if fit == fold.fit]
        if len(fitting) < len(members):
            log.info(
                "task %s: %d stored models are of another learner or other features and not used",
                fold.task,
                len(members) - len(fitting),
            )
        for version in fitting:
            key = self._key(fold.task, version, fold.fit)
            header = await self._header(key)
            # The index is by version, and what the header says is what is restored: they have to agree.
            header = header if header is not None and header.version == version else None
            if header is not None and usable is not None and not usable(header.next_offset):
                continue
            state = await self._load(header) if header is not None else None
            if state is not None:
                return state
            log.warning("task %s: the stored model of version %d is incomplete and not used", fold.task, version)
        return None

    async def resume(
        self,
        fold: ExampleFold,
        *,
        at_most: int | None = None,
        usable: Callable[[int], bool] | None = None,
        drop: bool = False,
    ) -> int | None:
        """Continue ``fold`` from the `newest` stored model that can be read; its version, ``None`` without one.

        One that cannot be read is passed over for an older one, at worst for the first example; with ``drop`` it goes,
        so that the same version, learned again, can be stored in its place.
        """
        while (state := await self.newest(fold, at_most=at_most, usable=usable)) is not None:
            try:
                fold.restore(state)
            except StateError as error:
                log.error("%s; it is not used, and its examples are learned again", error)
                # Older, so that the search ends whatever is wrong with them.
                at_most = state.version - 1
                if drop:
                    await self._drop(fold.task, state.version, fold.fit)
            else:
                return state.version
        return None

    async def _load(self, header: _Header) -> FoldState | None:
        model = await get_blob(self._link, header.model)
        identities = await get_blob(self._link, header.identities)
        if model is None or identities is None:
            return None
        return FoldState(header.version, header.digest, model, identities, header.next_offset, header.quarantines)

    async def _header(self, key: str) -> _Header | None:
        raw = await self._link.execute("HGET", key, "header")
        try:
            return None if raw is None else msgspec.msgpack.decode(raw, type=_Header)
        except UNREADABLE:
            return None

    async def _thin(self, fold: ExampleFold) -> None:
        """Drop what nobody will start from."""
        index = self._index(fold.task)
        by_fit: dict[str, list[int]] = {}
        for version, fit in _split(await self._link.execute("ZRANGE", index, 0, -1)):
            by_fit.setdefault(fit, []).append(version)
        for fit, versions in by_fit.items():
            kept = kept_versions(versions) if fit == fold.fit else {*sorted(versions)[-OF_OTHER_FIT:]}
            for version in sorted({*versions} - kept):
                await self._drop(fold.task, version, fit)

    async def _drop(self, task: str, version: int, fit: str) -> None:
        key = self._key(task, version, fit)
        header = await self._header(key)
        parts = [] if header is None else [*header.model.part_keys(), *header.identities.part_keys()]
        # The index goes last: what it names can be dropped again after a crash in between.
        await self._link.execute("UNLINK", key, *parts)
        await self._link.execute("ZREM", self._index(task), f"{version}:{fit}")

    def _index(self, task: str) -> str:
        return f"{self._link.prefix}:{{models}}:{task}"

    def _key(self, task: str, version: int, fit: str) -> str:
        return f"{self._index(task)}:{version}:{fit}"


_MEMBER: Final = re.compile(rb"(\d{1,15}):([0-9a-f]{16})")


def _split(members: Iterable[bytes]) -> list[tuple[int, str]]:
    """Version and fit of each member of an index that is one."""
    found = (_MEMBER.fullmatch(member) for member in members)
    return [(int(match[1]), match[2].decode()) for match in found if match is not None]


_STOP_S: Final = 5.0
"""How long a stop waits for Redis; what is not stored then is learned again at the next start."""


class ModelKeeper:
    """Stores models in the background: learning does not wait for Redis, and does not end when Redis is away.

    States are written one after the other; of each task only the newest that waits.

    Parameters
    ----------
    snapshots : where to; ``None`` stores nothing.
    interval_s : after which a model is due again.
    """

    def __init__(self, snapshots: ModelSnapshots | None, interval_s: float) -> None:
        self._snapshots, self._interval_s = snapshots, interval_s
        self._waiting: dict[str, tuple[ExampleFold, FoldState]] = {}
        self._version: dict[str, int] = {}
        """The last version that was stored, or is to be."""
        self._at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def stored(self, fold: ExampleFold, version: int) -> None:
        """Note that a version is stored."""
        self._version[fold.task] = version
        self._at[fold.task] = asyncio.get_running_loop().time()

    def lacks(self, fold: ExampleFold) -> bool:
        """Whether anything was learned since the newest version stored."""
        return self._snapshots is not None and fold.model.version > self._version.get(fold.task, 0)

    def due(self, fold: ExampleFold) -> bool:
        """Whether that was long ago."""
        now = asyncio.get_running_loop().time()
        return now - self._at.setdefault(fold.task, now) >= self._interval_s and self.lacks(fold)

    def put(self, fold: ExampleFold, state: FoldState) -> None:
        """Store ``state`` soon."""
        if self._snapshots is None:
            return
        # Noted as it is handed over: it is not due again while it waits, nor where storing it fails.
        self.stored(fold, state.version)
        self._waiting[fold.task] = (fold, state)
        # One writer, which takes what waits; it ends when nothing does.
        if self._task is None or self._task.done():
            # An error of the last writer is raised here, rather than lost with its task.
            self.check()
            self._task = asyncio.create_task(self._write(self._snapshots))

    def check(self) -> None:
        """Raise what went wrong meanwhile: ``ReplicaDiverged``, or an error that nobody expected."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()

    async def stop(self, last: Sequence[tuple[ExampleFold, FoldState]]) -> None:
        """Store what waits and ``last``, and end."""
        for fold, state in last:
            self.put(fold, state)
        if self._task is None:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await self._task
        except TimeoutError:
            log.warning("models were not stored within %g s; the next start learns their last examples again", _STOP_S)

    async def _write(self, snapshots: ModelSnapshots) -> None:
        while self._waiting:
            task = next(iter(self._waiting))
            fold, state = self._waiting.pop(task)
            try:
                await snapshots.save(fold, state)
            except ReplicaDiverged:
                log.error("task %s: this worker's model is not that of the others", task)
                raise
            # Away for now: the next version is stored, and a start learns a little more.
            except ShellError as error:
                log.warning("task %s: the model of version %d was not stored: %s", task, state.version, in_words(error))
