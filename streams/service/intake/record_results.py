"""What the intake says of the records of a body: the service writes it, and the client reads it."""

from __future__ import annotations

from typing import Annotated

import msgspec


class RecordResult(msgspec.Struct, omit_defaults=True):
    """What became of one record of a body; the reason of a refused one has the words of its dead letter."""

    index: int
    # A text to a client, so that it can read what a newer service may say.
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["accepted", "repeat", "refused"]})]
    """``accepted``, ``repeat`` or ``refused``."""
    reason: str = ""


class IntakeAnswer(msgspec.Struct):
    """What became of the records that were sent."""

    accepted: int
    repeats: int
    refused: int
    results: list[RecordResult]
    """Those that were not accepted; or each, where that was asked for."""
