"""Batches of records that are decoded apart and joined are as if they had been decoded together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.service.engine_runs import event
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import DecodedEvents, DecodedLabels, decode_labels, decode_user_events
from weir.streams.service.embedded.appends import joined

RAW = [
    event(1).value,
    event(2, user="u2").value,
    b"{",
    event(3).value.replace(b"9.5", b"2e12"),
    event(4).value.replace(b',"amount":9.5', b""),
]
LABEL = b'{"v":1,"task":"fraud","entity_id":"u1","event_id":"e1","ts":1.7e9,"value":1}'


@given(st.lists(st.lists(st.sampled_from(RAW), max_size=4), min_size=1, max_size=4))
def test_events_decoded_apart_and_joined_are_as_decoded_together(parts: list[list[bytes]]) -> None:
    columns = ColumnRequest(numbers=("amount",), entities=("user_id",))
    whole = decode_user_events([raw for part in parts for raw in part], columns)
    made = joined([decode_user_events(part, columns) for part in parts], [len(part) for part in parts])
    np.testing.assert_array_equal(made.index, whole.index)
    assert isinstance(made, DecodedEvents)
    assert (made.rejects, made.batch.event_id) == (whole.rejects, whole.batch.event_id)
    np.testing.assert_array_equal(made.batch.numbers["amount"], whole.batch.numbers["amount"])


@given(st.lists(st.lists(st.sampled_from([LABEL, b"[]", LABEL.replace(b"fraud", b"churn")]), max_size=4), min_size=1))
def test_labels_decoded_apart_and_joined_are_as_decoded_together(parts: list[list[bytes]]) -> None:
    whole = decode_labels([raw for part in parts for raw in part])
    made = joined([decode_labels(part) for part in parts], [len(part) for part in parts])
    np.testing.assert_array_equal(made.index, whole.index)
    assert isinstance(made, DecodedLabels)
    assert (made.rejects, made.tasks, made.batch.label_id) == (whole.rejects, whole.tasks, whole.batch.label_id)
