"""What parts of task files and settings are built from. It imports nothing heavy: ``weir --help`` may need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

__all__ = ["FrozenModel", "dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False) -> Callable[[type[Any]], type[Any]]:
        """As of the standard library, but that it leaves ``frozen`` to mypy.

        For what each batch makes many of: to see to it as it runs makes an object take four times as long.
        """
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)


class FrozenModel(BaseModel):
    """A value object: immutable, an unknown key is an error, and so is a number without an end.

    What may be without one says so itself (``allow_inf_nan``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)
