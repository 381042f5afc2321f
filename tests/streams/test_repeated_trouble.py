"""A loop that tries again says its trouble once, then each minute with a count, then that it is over."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import weir.streams
from weir.streams.errors import BrokerError
from weir.streams.ops.repeated_trouble import RepeatedTrouble

STREAMS = Path(weir.streams.__file__).parent
LOGS = {f"{name}.{level}" for name in ("log", "logger", "_log") for level in ("warning", "error", "exception")}
AGAIN = ("trying again", "still trying", "tried again", "asking again", "try again")
SAYS_IT_SELDOM = {
    ("trainer/job/job_stages.py", "work"): "it returns at the first, and the next try comes beats later",
    ("kafka/produce/producer.py", "_patiently"): "a try lasts for as long as aiokafka waits, tens of seconds",
    ("model_replicas/model_snapshots.py", "_write"): "each try is another model, and waits out the patience first",
    ("model_replicas/model_snapshots.py", "resume"): "it goes on to the model before",
    ("service/store/projector.py", "_read"): "it is no error that comes again: the place moves on behind the gap",
}
"""Loops that log in their own words, and why that fills no log."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_is_said_once_then_each_minute_with_a_count_then_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    trouble = RepeatedTrouble(logging.getLogger("a.loop"), "outputs are not read", clock=clock)
    trouble.over()  # nothing was the matter
    for second in range(150):
        clock.now = float(second)
        trouble.failed(BrokerError(f"no broker answers, port {second}"))
    clock.now = 3_600.0
    trouble.over()
    trouble.over()
    clock.now = 3_601.0
    trouble.failed("away again")
    trouble.over()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "outputs are not read: no broker answers, port 0; trying again"),
        ("WARNING", "outputs are not read: no broker answers, port 60; trying again (tried 61 times in 60 s)"),
        ("WARNING", "outputs are not read: no broker answers, port 120; trying again (tried 121 times in 2 minutes)"),
        ("WARNING", "outputs are not read: that is over; it failed 150 times in 60 minutes"),
        ("WARNING", "outputs are not read: away again; trying again"),
        ("WARNING", "outputs are not read: that is over; it failed once in 0 s"),
    ]


def test_an_error_of_ours_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    trouble = RepeatedTrouble(logging.getLogger("a.loop"), "nobody is told", expected=(BrokerError,))
    trouble.failed(ZeroDivisionError("of a bug"))
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def logs(node: ast.AST) -> Iterator[ast.Call]:
    """Calls that log what a person is to see."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in LOGS:
            yield call


def tries_again(function: ast.AST) -> bool:
    """Whether it logs an error that a loop of its own meets again, or says that it tries again."""
    loops = [node for node in ast.walk(function) if isinstance(node, ast.While)]
    handlers = [node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.ExceptHandler)]
    ends = (ast.Raise, ast.Return, ast.Break)
    if any(list(logs(one)) and not any(isinstance(node, ends) for node in one.body) for one in handlers):
        return True
    return any(
        isinstance(said, ast.Constant) and any(words in str(said.value) for words in AGAIN)
        for one in ast.walk(function)
        if isinstance(one, ast.ExceptHandler)
        for call in logs(one)
        for said in call.args
    )


def test_every_loop_that_tries_again_says_so_in_the_same_way() -> None:
    found = {
        (str(path.relative_to(STREAMS)), function.name)
        for path in STREAMS.rglob("*.py")
        for function in functions(ast.parse(path.read_text()))
        if tries_again(function)
    }
    assert found == SAYS_IT_SELDOM.keys(), "use RepeatedTrouble, or say in SAYS_IT_SELDOM why the log stays short"


@pytest.mark.parametrize(
    "source",
    ["while True:\n  try: f()\n  except OSError as e: log.error('no: %s', e)",
     "try: f()\nexcept OSError as e: log.warning('%s; trying again', e)"],
)  # fmt: skip
def test_the_rule_can_fail(source: str) -> None:
    assert tries_again(ast.parse(source))
