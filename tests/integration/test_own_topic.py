"""The program of docs/EXAMPLES.md that translates a topic: what it sends is valid, and all of it comes after a kill."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kafka_commands import Weir
from tests.integration.kafka_node import eventually
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import UserEvent
from weir.streams.config import topics
from weir.streams.kafka.admin.clients import producer

pytestmark = pytest.mark.integration
PAGE = Path(__file__).resolve().parents[2] / "docs/EXAMPLES.md"


def change(op: str, number: int) -> bytes:
    """As Debezium's connector for PostgreSQL writes it, without schemas."""
    row = {
        "id": number,
        "customer_id": 70 + number,
        "amount": "12.50",
        "currency": "EUR",
        "created_at": 1767571200500000,
    }
    source = {"version": "3.0.0.Final", "connector": "postgresql", "schema": "public", "table": "payments"}
    told: dict[str, Any] = {"before": None, "after": row, "source": source, "op": op, "ts_ms": 1_767_571_201_000}
    return json.dumps(told | ({"before": row, "after": None} if op == "d" else {})).encode()


@contextmanager
def translating(weir: Weir, topic: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program of the page at work; killed at the end."""
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for old, new in (("localhost:9092", weir.settings.bootstrap[0]), ("shop.public.payments", topic)):
        assert old in program
        program = program.replace(old, new)
    with log.open("ab") as errors, subprocess.Popen([sys.executable, "-c", program], stderr=errors) as process:
        try:
            yield process
        finally:
            process.kill()


def test_change_events_become_events_and_none_is_lost_by_a_kill(weir: Weir, tmp_path: Path) -> None:
    topic, errors = weir.make("payments-changed"), tmp_path / "errors"

    def arrived() -> set[str]:
        return {json.loads(record.value)["event_id"] for record in weir.read(topics.USER_EVENTS)}

    for numbers in (range(50), range(50, 100)):
        with producer(weir.settings, "test") as client:
            for n in numbers:
                key, deleted = b'{"id":%d}' % n, n % 10 == 9
                client.send(topic, key=key, value=change("d" if deleted else "c", n))
                if deleted:
                    client.send(topic, key=key, value=None)
            client.flush()
        wanted = {f"payment-{n}" for n in range(numbers.stop) if n % 10 != 9}
        with translating(weir, topic, errors) as process:
            eventually(lambda: process.poll() is not None or arrived() >= wanted, 60, "rows are missing")  # noqa: B023
    records = weir.read(topics.USER_EVENTS)
    assert errors.read_text() == ""
    assert arrived() == wanted
    assert [explain(UserEvent, record.value) for record in records] == [None] * len(records)
    event = json.loads(records[0].value)
    assert (event["ts"], event["amount"], records[0].key.decode()) == (1_767_571_200.5, 12.5, event["user_id"])
