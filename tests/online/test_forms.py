from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weir.online.codec.forms.form import COUNT, FLAG, MAYBE_NUMBER, NUMBER, InputBuffer, JsonTemplate, maybe_text, text
from weir.online.codec.why_invalid import explain_json

NOTHING: Any = np.empty((1, 0), np.int64)
ONE = JsonTemplate({"x": NUMBER})
FORM = JsonTemplate(
    {
        "v": 1,
        "id": text(64),
        "caf\u00e9 \"x\"": {"a": NUMBER, "b": NUMBER},
        "of": {"m": maybe_text(8), "n": maybe_text(64)},
        "n": COUNT,
        "ok": FLAG,
        "more": [MAYBE_NUMBER, MAYBE_NUMBER],
        "none": [],
    }
)  # fmt: skip


def written(values: NDArray[np.float64]) -> list[bytes]:
    return ONE.fill([], values[:, None], np.empty((len(values), 0), np.int64)).records()


def check_floats(values: NDArray[np.float64]) -> None:
    """Written as msgspec writes them, read as Python reads them."""
    values = values[np.isfinite(values)]
    records = written(values)
    assert records == [b'{"x":' + msgspec.json.encode(value) + b"}" for value in values.tolist()]
    joined = InputBuffer(records)
    filled = ONE.read(joined)
    np.testing.assert_array_equal(filled.numbers[:, 0].view(np.uint64), values[filled.index].view(np.uint64))
    # Results below the normal floats and some of the very small ones are left to another reader.
    assert (np.abs(values[joined.rest()]) < 1e-250).all()


def test_edges_of_floats_are_written_and_read_exactly() -> None:
    with np.errstate(all="ignore"):
        tens = np.array([float(f"1e{e}") for e in range(-323, 309)])
        twos = 2.0 ** np.arange(-1074, 1024)
        edges = np.concatenate([tens, twos, 3 * twos, [0.0, -0.0, 9007199254740993.0, 0.1 + 0.2, 1e16 - 2, 123456.7]])
        for values in (edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf), -edges):
            check_floats(values)


def test_floats_of_every_kind_are_written_and_read_exactly() -> None:
    rng = np.random.default_rng(1)
    check_floats(rng.integers(0, 2**64, 50_000, dtype=np.uint64).view(np.float64))
    check_floats(rng.lognormal(3, 3, 50_000))
    check_floats(np.round(rng.lognormal(3, 3, 20_000), 2))
    check_floats(rng.integers(0, 2**60, 20_000).astype(np.float64))
    check_floats(rng.integers(0, 2**53, 20_000) * 10.0 ** rng.integers(-30, 30, 20_000))


digits = st.text("0123456789", max_size=22)
tokens = st.one_of(
    st.builds("{}{}{}{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**20), st.just(""), st.just("")),
    st.builds("{}{}.{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**19), digits),
    st.builds("{}.{}e{}".format, st.integers(0, 10**9), digits, st.integers(-330, 310)),
    st.builds("{}e{:+}".format, st.integers(0, 2**64), st.integers(-30, 30)),
    st.builds("{}.5".format, st.integers(2**52, 2**53)),
    st.builds("{}5e-1".format, st.integers(2**52, 2**53)),
    st.text("0123456789.eE+-", min_size=1, max_size=12),
)


@given(st.lists(tokens, min_size=1, max_size=20))
@example(["-0", "-0.0", "00", "01.5", "1.", ".5", "1e", "1e+", "+1", "-", "1e5", "1E-05", "1e400", "5e-324", "1.2.3"])
@example(["0." + "0" * 60 + "1", "0." + "0" * 30 + "1e30", "9" * 19, "9" * 20, "0." + "9" * 25, "1" + "0" * 60])
@settings(max_examples=120)
def test_a_number_is_read_exactly_or_left_to_another_reader(numbers: list[str]) -> None:
    records = [b'{"x":' + token.encode() + b"}" for token in numbers]
    filled = ONE.read(InputBuffer(records))
    for i, value in zip(filled.index.tolist(), filled.numbers[:, 0].tolist(), strict=True):
        assert explain_json(records[i]) is None
        expected = float(numbers[i])
        assert (value, np.signbit(value)) == (expected, np.signbit(expected))


any_text = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from('"\\/\x01\x1f\x7f\u2028'), min_size=1
)
plain = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), min_size=1, max_size=64)
numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.one_of(st.just(float("nan")), numbers)


@st.composite
def rows(draw: st.DrawFn, some: st.SearchStrategy[str]) -> tuple[list[list[str | None]], Any, Any]:
    n = draw(st.integers(0, 6))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, min_size=n, max_size=n))

    texts = [column(some), column(st.none() | some), column(st.none() | some)]
    values = np.array([column(kind) for kind in (numbers, numbers, maybe, maybe)], np.float64).reshape(4, n).T
    counts = np.array([column(st.integers(0, 2**63 - 1)), column(st.integers(0, 1))], np.int64).reshape(2, n).T
    return texts, values, counts


def expected_record(texts: list[list[str | None]], values: Any, counts: Any, i: int) -> dict[str, Any]:
    a, b, *more = values[i].tolist()
    of = {name: column[i] for name, column in zip("mn", texts[1:], strict=True) if column[i] is not None}
    return {
        "v": 1,
        "id": texts[0][i],
        "caf\u00e9 \"x\"": {"a": a, "b": b},
        "of": of,
        "n": int(counts[i, 0]),
        "ok": bool(counts[i, 1]),
        "more": [None if np.isnan(value) else value for value in more],
        "none": [],
    }  # fmt: skip


@given(rows(any_text))
@settings(max_examples=80)
def test_a_filled_in_form_is_what_msgspec_writes(row: tuple[list[list[str | None]], Any, Any]) -> None:
    records = FORM.fill(*row).records()
    assert records == [msgspec.json.encode(expected_record(*row, i)) for i in range(len(records))]


@given(rows(plain.map(lambda value: value[:8])))
@settings(max_examples=80)
def test_a_filled_in_form_reads_back_exactly(row: tuple[list[list[str | None]], Any, Any]) -> None:
    texts, values, counts = row
    joined = InputBuffer([b"", *FORM.fill(*row).records()])
    filled = FORM.read(joined)
    large = (np.abs(values) > 1e-250) | (values == 0) | np.isnan(values)
    few = counts[:, 0] < 10**18
    if large.all() and few.all():
        assert filled.index.tolist() == list(range(1, len(values) + 1))
        assert joined.rest().tolist() == [0]
        assert filled.texts == texts
        assert np.array_equal(
            filled.numbers.view(np.uint64)[~np.isnan(values)], values.view(np.uint64)[~np.isnan(values)]
        )
        assert np.isnan(filled.numbers[np.isnan(values)]).all()
        assert filled.counts.tolist() == counts.tolist()


JUNK = [b"", b'"', b",", b"}", b"0", b"e1", b"\\", b"\x7f", b"\xc3", b" ", b"x" * 70]


@given(st.data(), rows(plain.map(lambda value: value[:8])))
@settings(max_examples=120)
def test_what_is_read_of_a_mutated_record_is_what_it_says(
    data: st.DataObject, row: tuple[list[list[str | None]], Any, Any]
) -> None:
    records = FORM.fill(*row).records()
    for i, record in enumerate(records):
        at = data.draw(st.integers(0, len(record)))
        junk = data.draw(
            st.sampled_from([b"", b'"', b",", b"}", b"0", b"e1", b"\\", b"\x7f", b"\xc3", b" ", b"x" * 70])
        )
        records[i] = record[:at] + junk + record[at + data.draw(st.integers(0, 3)) :]
    filled = FORM.read(InputBuffer(records))
    for k, i in enumerate(filled.index.tolist()):
        assert explain_json(records[i]) is None
        assert json.loads(records[i]) == expected_record(filled.texts, filled.numbers, filled.counts, k)
        assert all(1 <= len(column[k] or "x") <= 64 for column in filled.texts)


def test_texts_are_read_up_to_their_limits() -> None:
    form = JsonTemplate({"a": text(3), "of": {"b": maybe_text(2)}})
    taken = [b'{"a":"abc","of":{}}', b'{"a":"x","of":{"b":"yz"}}']
    left = [
        b'{"a":"abcd","of":{}}', b'{"a":"","of":{}}', b'{"a":"x","of":{"b":"xyz"}}', b'{"a":"x","of":{"b":""}}',
        b'{"a":"\xc3\xa9","of":{}}', b'{"a":"\\n","of":{}}', b'{"a":"\x7f","of":{}}', b'{"a":null,"of":{}}',
        b'{"a":"x","of":{,"b":"y"}}', b'{"a":"x","of":{"b":"y",}}', b'{"a":"x","of":{}} ', b'{"a":"x","of":{}',
        b'{"a":"x"}', b'{"a":"abc', b'{"a":"x","of":{"b":"y","b":"z"}}', b"",
    ]  # fmt: skip
    joined = InputBuffer([*taken, *left])
    filled = form.read(joined)
    assert filled.index.tolist() == [0, 1]
    assert filled.texts == [["abc", "x"], [None, "yz"]]
    assert joined.rest().tolist() == list(range(2, 2 + len(left)))


def test_what_one_form_has_read_another_does_not() -> None:
    a, b, both = (JsonTemplate({"t": name, "x": NUMBER}) for name in ("a", "b", "a"))
    joined = InputBuffer([b'{"t":"a","x":1.5}', b'{"t":"b","x":2}', b'{"t":"c","x":3}', b'{"t":"a","x":4e0}'])
    first = a.read(joined)
    assert (first.index.tolist(), first.numbers.tolist()) == ([0, 3], [[1.5], [4.0]])
    assert b.read(joined).index.tolist() == [1]
    assert both.read(joined).index.tolist() == []
    back = first.without(joined, np.array([True, False]))
    assert (back.index.tolist(), back.numbers.tolist(), joined.rest().tolist()) == ([3], [[4.0]], [0, 2])


def test_what_cannot_be_filled_in_is_refused() -> None:
    form = JsonTemplate({"a": text(3), "x": NUMBER})
    with pytest.raises(ValueError, match=r"0 texts, numbers \(1, 1\), counts \(1, 0\); this form takes 1 texts"):
        form.fill([], np.ones((1, 1)), NOTHING).records()
    for column in (["a\0b"], ["a", "b"], []):
        with pytest.raises(ValueError, match="give 1, none with the character 0"):
            form.fill([column], np.ones((1, 1)), NOTHING).records()
    assert form.fill([[]], np.ones((0, 1)), np.empty((0, 0), np.int64)).records() == []
    assert form.read(InputBuffer([])).texts == [[]]
