"""Texts of events as inputs: as columns of a hashed one-hot, or as the share of positives among their known labels."""

from __future__ import annotations

from typing import Any, Literal
from zlib import crc32

from pydantic import Field, model_validator

from weir.online.durations import EVER
from weir.online.features.spec import Entity, LabelAggregate, Name, Window
from weir.online.frozen import FrozenModel


class Category(FrozenModel):
    """A text column that the model is to see.

    >>> country = Category.model_validate({"name": "country", "columns": 2})
    >>> country.values()
    {'_country': 'hash(country) % 2', 'country_group_0': '_country == 0', 'country_group_1': '_country == 1'}
    """

    name: Name
    """What its columns are called by."""
    value: str | None = None
    """The text column; left out, the one of this name."""
    encode: Literal["hashed", "target"] = "hashed"
    """As groups by hash, or as the share of positives among its known labels."""
    columns: int = Field(default=8, ge=2, le=64)
    """``hashed``: groups that values fall into by their hash; a column each, 1 for those of the group."""
    texts: tuple[str, ...] = Field(default=(), max_length=256, exclude_if=lambda value: not value)
    """``hashed``: texts that it is known to have. They change no column: reasons tell by them which text is meant."""
    windows: tuple[Window, ...] = (EVER,)
    """``target``: how long labels count, from when they became known."""
    prior: float = Field(default=20.0, gt=0)
    """``target``: as many labels does the prior weigh."""
    prior_share: float | None = Field(default=None, ge=0, le=1)
    """``target``: the share of positives where none is known, best that of all events."""

    @model_validator(mode="after")
    def _check(self) -> Category:
        if (self.encode == "target") != (self.prior_share is not None):
            raise ValueError("encode = 'target' and prior_share (the share of positives overall) go together")
        return self

    def values(self) -> dict[str, str]:
        """Derived columns of a hashed category; one that begins with ``_`` is no input."""
        if self.encode != "hashed":
            return {}
        groups = {name: f"_{self.name} == {k}" for k, name in enumerate(self.groups())}
        return {f"_{self.name}": f"hash({self.value or self.name}) % {self.columns}"} | groups

    def groups(self) -> list[str]:
        """The columns of its groups; none where it is not hashed."""
        return [f"{self.name}_group_{k}" for k in range(self.columns)] if self.encode == "hashed" else []

    def members(self, group: int) -> list[str]:
        """Which of the known texts fall into a group.

        >>> kind = Category.model_validate({"name": "kind", "columns": 2, "texts": ["low", "normal", "high"]})
        >>> kind.members(0), kind.members(1)
        (['normal'], ['low', 'high'])
        """
        return [text for text in self.texts if crc32(text.encode()) % self.columns == group]

    def entity(self) -> Entity:
        """What a target-encoded category is: an entity keyed by the text, whose labels have a smoothed share."""
        known = LabelAggregate(
            name="target", ops=("share",), windows=self.windows, prior=self.prior, prior_share=self.prior_share or 0.0
        )
        return Entity(name=self.name, key=self.value or self.name, labels=(known,))


def with_entities(document: Any) -> Any:
    """A task's document with the entities of its categories; whatever is wrong in it is left to its own check."""
    try:
        made = [Category.model_validate(each) for each in document["categories"]]
        there = [Entity.model_validate(each) for each in document["entities"]]
    except (KeyError, TypeError, ValueError):
        return document
    added = [c.entity() for c in made if c.encode == "target"]
    # A task that is validated again, from its own dump, has them already.
    return {**document, "entities": [*document["entities"], *(e for e in added if e not in there)]}
