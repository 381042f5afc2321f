"""A task of ``kind = "next"``: which items an entity takes next, as it is written in a TOML file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from weir.online.codec.columns import ColumnRequest
from weir.online.codec.wire import ITEMS_MAX, Word
from weir.online.durations import Seconds
from weir.online.features.spec import Name
from weir.online.frozen import FrozenModel
from weir.online.learners.factory import LearnerSpec
from weir.online.task.spec import SourceSpec, read_spec
from weir.online.toml_text import parse_toml


class NextTask(FrozenModel):
    r"""The ``k`` items that an entity's next basket is most likely to hold, told anew with each of its events.

    >>> task = NextTask.from_toml('kind = "next"\nname = "shop"\nentity = "user_id"\nitem = "product"')
    >>> task.k, task.columns.entities
    (10, ('user_id', 'product'))
    """

    kind: Literal["next"]
    name: Name
    """Also the task's name in predictions."""
    description: str = ""
    """What it recommends, for people."""
    stream: Literal["user-events", "device-events"] = "user-events"
    """The events that it reads."""
    types: tuple[Word, ...] = ()
    """Event types the task sees; empty for all."""
    entity: str = Field(min_length=1)
    """The identifier of whose items they are, such as ``user_id``."""
    item: str = Field(min_length=1)
    """The text that names an item."""
    basket: str | None = Field(default=None, min_length=1)
    """The text that events of one basket share; they come one behind the other in an entity."""
    gap: Seconds | None = Field(default=None, gt=0)
    """Events of an entity no further apart are one basket. Without ``basket`` and ``gap`` each event is one."""
    k: int = Field(default=10, ge=1, le=ITEMS_MAX)
    """How many items are told."""
    remember: int = Field(default=64, ge=8, le=1_024)
    """Items remembered of an entity: those it took last."""
    most_items: int = Field(default=2_000, ge=2, le=4_096)
    """Different items that the task tells apart: the first to come."""
    ttl: Seconds = Field(default=400 * 86_400.0, gt=0, allow_inf_nan=True)
    """An entity without events for so long is forgotten."""
    model: LearnerSpec = LearnerSpec(kind="bayesian_logistic")
    """Learns the part that a candidate is of the next basket."""
    source: SourceSpec | None = None
    """How rows of a file become events, for ``weir backtest``; without a label."""

    @model_validator(mode="after")
    def _check(self) -> NextTask:
        if self.basket is not None and self.gap is not None:
            raise ValueError("basket and gap both say which events are one basket; remove one of them")
        if (names := [self.entity, self.item, self.basket]) and len({*names}) < len(names):
            raise ValueError(
                f"entity, item and basket are {', '.join(map(repr, names))}; give each a column of its own"
            )
        if self.source is not None and (self.source.label or self.source.label_known):
            raise ValueError("source.label: the next basket is the label of this kind of task; remove it")
        return self

    @property
    def key(self) -> str:
        """The wire column that names the entity."""
        return self.entity

    @property
    def columns(self) -> ColumnRequest:
        """What the task reads of events."""
        names = (self.entity, self.item) if self.basket is None else (self.entity, self.item, self.basket)
        return ColumnRequest(entities=names)

    @classmethod
    def from_toml(cls, text: str, where: str = "task") -> NextTask:
        """Read a task; raises ``TaskError`` with every wrong key by its path."""
        return read_spec(cls, text, where)


def is_next(text: str) -> bool:
    """Whether a task file is of ``kind = "next"``; not where it is no TOML, which who reads it tells."""
    try:
        return parse_toml(text, "task").get("kind") == "next"
    except ValueError:
        return False
