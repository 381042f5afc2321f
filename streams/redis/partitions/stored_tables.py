"""Which tables of rows there are, and under which names Redis keeps their rows. It knows no row and no open lane."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from weir.online.errors import StateError
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_record import CLEARING, LaneRecord, decode_record
from weir.streams.redis.stored_rows import Lane, lane_prefix, other_schema
from weir.streams.redis.topic_identity import StoredIdentity

log = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[^\s:{}]+")


@dataclass(frozen=True, slots=True)
class Table:
    """A declared table."""

    name: str
    row_bytes: int
    schema: int
    kept_s: float
    stored: str = ""
    """Under which name its rows are kept, where that is settled."""

    @property
    def key(self) -> str:
        """The name in keys and lane records."""
        return self.stored or self.name

    def beside(self) -> str:
        """The name in keys where rows of another schema have the plain one."""
        return f"{self.name}~{self.schema:08x}"


class StoredTables:
    """The tables of one store.

    Parameters
    ----------
    link : a started link.
    prefix : what the keys begin with.
    """

    def __init__(self, link: RedisClient, prefix: str) -> None:
        self._link, self._prefix = link, prefix
        self._tables: dict[str, Table] = {}
        self.sides: dict[str, tuple[str, int]] = {}
        """By table, the topic, and its partitions, whose lanes own the rows."""

    def __getitem__(self, table: str) -> Table:
        """Raises ``LookupError`` where the table was not created."""
        if (declared := self._tables.get(table)) is None:
            raise LookupError(f"table {table!r} was not created; there are: {', '.join(sorted(self._tables))}")
        return declared

    def get(self, table: str) -> Table | None:
        """The table of a name, where there is one."""
        return self._tables.get(table)

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table; raises ``StateError`` when it was declared with another width or schema."""
        if not _NAME.fullmatch(table):
            raise ValueError(f"table {table!r} must not be empty or hold space, colon or braces")
        known = self._tables.setdefault(table, Table(table, row_bytes, schema, kept_s))
        if (known.row_bytes, known.schema) != (row_bytes, schema):
            raise StateError(
                f"table {table!r} is declared with rows of {known.row_bytes} B, schema {known.schema:08x}, but a task "
                f"now wants {row_bytes} B, schema {schema:08x}: two tasks share its name; rename one"
            )

    async def settle(self, lanes: Sequence[Lane], *, anew: bool = False) -> None:
        """Find out under which name the rows of each table are kept, before a lane is opened.

        Rows of a task whose aggregates changed lie beside those of the task before, so that workers of both can run:
        the first have the plain name, ``table~schema`` the others.

        Parameters
        ----------
        lanes : those that may hold rows of before this was noted.
        anew : whether these tables have the plain name from now on, as after a rebuild.
        """
        stored = StoredIdentity(self._link)
        for name, table in self._tables.items():
            # Settled for the life of the process: lanes that are open have keys of that name.
            if table.stored and not anew:
                continue
            if anew:
                await stored.store({f"table:{name}": f"{table.schema:08x}"})
            plain = await stored.schema_of(name, table.schema, partial(self._recorded, name, lanes))
            self._tables[name] = replace(table, stored=name if plain == table.schema else table.beside())
            if plain != table.schema:
                log.warning(
                    "table %s: the aggregates of its task changed (schema %08x, now %08x), or this version of Weir "
                    "keeps them otherwise, so its rows begin anew beside the others, and windows fill from now on; "
                    "'weir features rebuild' fills them from Kafka at once. Rows of the task before stay for workers "
                    "that still run it, and expire",
                    name, plain, table.schema,
                )  # fmt: skip

    async def _recorded(self, table: str, lanes: Sequence[Lane]) -> int | None:
        """The schema that a table's rows have by the record of any of these lanes."""
        for lane in lanes:
            value = await self._link.execute("GET", f"{lane_prefix(self._prefix, lane)}lane")
            # A rebuild that was cut short has left no record there.
            if value is not None and value[:8] != CLEARING[:8]:
                found = decode_record(value).schemas.get(table)
                if found is not None:
                    return found
        return None

    def declare_side(self, table: str, topic: str, partitions: int) -> None:
        """Rows of ``table`` belong to the lanes of ``topic``: from other lanes they are read fresh, never written."""
        self.sides[table] = (topic, partitions)

    def owned(self, lane: Lane, table: str) -> bool:
        """Whether the lane writes the rows of a table; else they are copies of rows of other lanes."""
        side = self.sides.get(table)
        return side is None or side[0] == lane[0]

    def left(self, record: LaneRecord) -> dict[str, int]:
        """Tables of a lane that are none of ours: by key, the first record that their rows miss."""
        return {key: record.left.get(key, record.next_offset) for key in record.schemas if key not in self._keys()}

    def missed(self, record: LaneRecord) -> dict[str, int]:
        """Of the rows of which tables of ours records are missing: those from the offset on, up to where the lane is.

        Owners of the lane before us did not have these tables: they ran another version of the task, or not at all.
        """
        ours = self._keys()
        return {key: at for key, at in record.left.items() if key in ours and at < record.next_offset}

    def _keys(self) -> set[str]:
        return {table.key for table in self._tables.values()}

    def check(self, schemas: Mapping[str, int]) -> None:
        """Raise ``StateError`` where rows have another schema than their table, by the record of their lane."""
        for table, known in self._tables.items():
            schema = schemas.get(known.key, known.schema)
            if known.schema != schema:
                raise StateError(other_schema(table, (known.row_bytes, schema), (known.row_bytes, known.schema)))
