"""A column as labels: which words mean true, false, and not known.

It knows words, not events.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import IntVector
from weir.online.task.spec import SourceSpec
from weir.streams.backtest.tables.texts import BLANK, Cells, as_text

TRUE = frozenset({"1", "true", "t", "yes", "y", "positive", "pos", "on", "wahr", "vrai", "ja", "oui"})
FALSE = frozenset({"0", "-1", "false", "f", "no", "n", "negative", "neg", "off", "falsch", "faux", "nein", "non"})
UNKNOWN = frozenset({"unknown", "unlabelled", "unlabeled", "pending", "not known"})
ANY = "*"
"""In ``positive``: whatever there is, such as the date of a chargeback."""
_SHOWN = 10


def read_labels(cells: Cells, words: SourceSpec) -> IntVector:
    """Labels ``(n,) int64``: 1, 0, and -1 where there is none; ``words`` holds the user's own.

    Raises
    ------
    UsageError
        Naming the values that mean neither, with their counts.
    """
    coded = pc.dictionary_encode(as_text(cells.values, f"{cells.where(0)}: column {cells.name!r}").combine_chunks())
    indices = pc.fill_null(coded.indices, len(coded.dictionary))
    distinct: list[str] = coded.dictionary.to_pylist()
    counts = np.bincount(np.asarray(indices), minlength=len(distinct) + 1)
    meaning = np.array([*_meanings(distinct, words, cells.missing), _of_nothing(words)], np.int64)
    if (unknown := np.flatnonzero(meaning == -2)).size:
        row = int(pc.index(indices, pa.scalar(int(unknown[0]), indices.type)).as_py())
        raise cells.refuse(
            row,
            f"{distinct[int(unknown[0])][:40]!r}, which is neither true nor false; the values are: "
            f"{_counted(distinct, counts)}. Say in [source] which mean what: positive = [...], negative = [...], "
            "unlabelled = [...]",
        )
    lows = {_plain(text) for text in distinct}
    # Either may mean negative (LIBSVM writes 1 and -1). Where both are there one of them is "not known", and a guess
    # would teach a wrong class.
    if not words.negative and not words.positive and {"0", "-1"} <= lows and not {"0", "-1"} & _set(words.unlabelled):
        raise cells.refuse(
            0,
            f"0 or -1 ({_counted(distinct, counts)}): which one means negative? Say so by negative = [...] and "
            'unlabelled = ["-1"] in [source]',
        )
    cells.say(_told(distinct, counts, meaning))
    labels: IntVector = meaning[np.asarray(indices)]
    return labels


def _meanings(distinct: Sequence[str], words: SourceSpec, missing: Collection[str]) -> list[int]:
    """By text 1, 0, -1 for not known and -2 for neither."""
    positive, negative = _set(words.positive), _set(words.negative)
    unlabelled = _set(words.unlabelled)
    any_value, nothing = ANY in positive, _of_nothing(words)
    out = []
    for low in map(_plain, distinct):
        if low in unlabelled:
            out.append(-1)
        elif low in positive or low in negative:
            out.append(int(low in positive))
        elif low == "" or low in missing or (low in UNKNOWN and not words.negative):
            out.append(nothing)
        elif any_value:
            out.append(1)
        elif positive:
            out.append(-2 if negative else 0)
        else:
            out.append(1 if low in TRUE else 0 if low in FALSE and not negative else -2)
    others = [low for low, value in zip(map(_plain, distinct), out, strict=True) if value == 0]
    if positive and not negative and 1 not in out and set(others) - FALSE:
        return [-2 if v == 0 else v for v in out]  # what `positive` lists is not there, and others may mean it
    return out


def _of_nothing(words: SourceSpec) -> int:
    """What a cell without a value means: a date or nothing says yes or no, all else without a value is not known."""
    return 0 if "" in words.negative else -1


def _plain(text: str) -> str:
    """Without blanks and case; numbers by their value.

    >>> _plain(" TRUE "), _plain("1.00"), _plain("'1,0'"), _plain("-1")
    ('true', '1', '1', '-1')
    """
    low = text.strip(BLANK + "'").casefold()
    try:
        # A label that passed through pandas or a spreadsheet is 1.0 or 1,0 in one export and 1 in the next.
        return f"{float(low.replace(',', '.')):.15g}" if low and (low[-1].isdigit() or low[-1] in ".,") else low
    except ValueError:
        return low


def _set(words: Sequence[str]) -> set[str]:
    return {_plain(word) for word in words}


def _counted(distinct: Sequence[str], counts: IntVector) -> str:
    order = np.argsort(-counts[: len(distinct)], kind="stable")
    shown = [f"{distinct[i][:40]!r} ({int(counts[i]):,})" for i in order[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(distinct) - _SHOWN:,} more" if len(distinct) > _SHOWN else "")


def _told(distinct: Sequence[str], counts: IntVector, meaning: IntVector) -> str:
    """The words found, with counts."""
    parts, words = [], [*distinct, ""]
    for value, name in ((1, "true"), (0, "false"), (-1, "not known")):
        mine = np.flatnonzero(meaning == value)
        shown = ", ".join([repr(words[i]) for i in mine if words[i].strip()][:5])
        if (total := int(counts[mine].sum())) or value >= 0:
            parts.append(f"{total:,} {name}" + (f" ({shown})" if shown else ""))
    return "label: " + ", ".join(parts)
