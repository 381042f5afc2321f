"""What records of others say is printed as text: it forges no line of a log and turns nothing around."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from weir.online.codec.wire import RetrainRequest
from weir.streams.cli.processes.process import _SafeLines
from weir.streams.text import printable
from weir.streams.trainer.task_state import RetrainAsk

FORGED = "drift\n2026-11-28 10:00:00 ERROR weir: all is lost\x1b[2J\u202etxt.exe"


@given(st.text(max_size=60))
def test_whatever_is_given_prints_on_one_line(text: str) -> None:
    assert printable(text).isprintable()
    assert text.isprintable() == (printable(text) == text)
    assert len(printable(text, 10)) <= 10


def test_a_record_forges_no_line_of_a_log() -> None:
    record = logging.LogRecord("weir", logging.WARNING, "x.py", 1, "asks: %s", (FORGED,), None)
    lines = _SafeLines("%(levelname)s %(message)s").format(record).split("\n")
    assert [line.isprintable() for line in lines] == [True, True]
    assert lines[1].startswith("    2026"), "it is seen to go on, not to begin"
    assert "\\x1b[2J\\u202etxt" in lines[1]


def test_an_error_that_is_logged_from_where_none_is_handled_adds_no_line() -> None:
    """Faust logs each crash so, and the last lines of a worker that ended for a setting said ``NoneType: None``."""
    nothing: tuple[None, None, None] = (None, None, None)
    record = logging.LogRecord("weir", logging.ERROR, "x.py", 1, "crashed", (), nothing)
    assert _SafeLines("%(levelname)s %(message)s").format(record) == "ERROR crashed"


def test_the_text_of_a_request_reaches_the_trainer_as_one_line() -> None:
    request = RetrainRequest(request_id="r", task="fraud", cause="manual", requested_at=1.7e9, text=FORGED)
    assert RetrainAsk.of(request).text.isprintable()
    assert not RetrainAsk.of(request).forced
    assert RetrainAsk.of(request.model_copy(update={"details": {"force": True}})).forced
    by_machine = request.model_copy(update={"details": {"force": True}, "cause": "drift"})
    assert not RetrainAsk.of(by_machine).forced
