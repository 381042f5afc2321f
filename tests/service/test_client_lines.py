"""Where the client resumes after a connection that broke anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weir.streams.client.calls import EventLines

EVENTS = [f"event: alert\nid: {n}\ndata: {{}}\n\n" for n in range(3)] + [": \nid: 9\n\n"]
STREAM = "".join(EVENTS)


@given(st.integers(0, len(STREAM)))
def test_an_id_counts_once_its_event_was_whole(cut: int) -> None:
    lines = EventLines()
    seen = [lines.last_id for line in STREAM[:cut].split("\n")[:-1] if lines.take(line)]
    whole = STREAM[:cut].count("\n\n")
    assert seen == [str(n) for n in range(min(whole, 3))]
    assert lines.last_id == [None, "0", "1", "2", "9"][whole]
    lines.begin()
    (again,) = [event for line in EVENTS[0].split("\n")[:-1] if (event := lines.take(line))]
    assert again.data == "{}", "nothing is left of the connection before"
