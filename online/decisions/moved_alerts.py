"""What several alert books hold, divided anew by entity. It works on snapshots, between two lives of the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from weir.online.batch import BoolVector
from weir.online.decisions.stored_book import BookEntry, StoredBook

Takes = Callable[[Sequence[str]], BoolVector]
"""Which of some entities a book gets."""


def joined(base: bytes, parts: Sequence[tuple[bytes, Takes]]) -> bytes:
    """The snapshot of a book that gets these parts of others, and has the counts of ``base``.

    An open alert goes with its entity, and so does the cooldown after one; what is in two of the parts counts once.
    """
    book, entries, seen = msgspec.msgpack.decode(base, type=StoredBook), list[BookEntry](), dict[str, None]()
    for state, takes in parts:
        held = msgspec.msgpack.decode(state, type=StoredBook)
        taken = [entry for entry, here in zip(held.entries.values(), takes([*held.entries]), strict=True) if here]
        told = takes([event.split("\n", 1)[0] for event in held.seen])
        seen |= dict.fromkeys(event for event, here in zip(held.seen, told, strict=True) if here)
        entries += sorted(taken, key=lambda entry: entry.number)
        if taken:
            book.watermark = max(book.watermark, held.watermark)
    # Numbers of two books may be the same; in the order in which alerts opened they are told.
    entries.sort(key=lambda entry: entry.alert.opened_at)
    book.entries = {entry.alert.entity_id: entry for entry in reversed(entries)}
    for number, entry in enumerate(reversed(book.entries.values())):
        entry.number = number
    book.number, book.seen = len(book.entries), list(seen)
    return msgspec.msgpack.encode(book, order="deterministic")
