"""PostgreSQL that only reads, that is locked, or that says nothing: each is told as a database that is away, soon."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, select, text, update

from tests.integration.postgres_server import postgres_server
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.service.store import database
from weir.streams.service.store import tables as t
from weir.streams.service.store.database import AWAY, in_thread, open_database
from weir.streams.service.store.tables import execute, fetched

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
MANY = 30
"""Questions at once: more than threads."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture
def engine(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(database, "_LOCK_TIMEOUT", "300ms")
    made = open_database(ServeSettings.model_validate({"directory": tmp_path, "database": server}))
    yield made
    made.dispose()


def backend(engine: Engine) -> int:
    """The process of the server that answers us."""
    with engine.connect() as c:
        return int(c.execute(text("SELECT pg_backend_pid()")).scalar_one())


def test_one_that_only_reads_is_away_and_is_looked_for_again(engine: Engine, server: str) -> None:
    """As the primary of before is after a failover: it answers, and behind its name there may be another one by now."""
    write = update(t.projection_state).values(writer="one")
    execute(engine, write)
    before = backend(engine)
    person = create_engine(server, isolation_level="AUTOCOMMIT")
    with person.connect() as c:
        c.execute(text("ALTER DATABASE postgres SET default_transaction_read_only = on"))
        with engine.connect() as ours:
            ours.execute(text("SET default_transaction_read_only = on"))
            ours.commit()
        for _ in range(2):
            with pytest.raises(AWAY, match="read-only"):
                execute(engine, write)
            assert backend(engine) != before, "the connection of before leads nowhere"
        c.execute(text("SET default_transaction_read_only = off"))
        c.execute(text("ALTER DATABASE postgres RESET default_transaction_read_only"))
    with pytest.raises(AWAY, match="read-only"):
        execute(engine, write)
    execute(engine, write)
    person.dispose()


async def test_a_lock_of_somebody_else_holds_up_nothing_that_needs_no_database(engine: Engine, server: str) -> None:
    person = create_engine(server)
    with person.begin() as c:
        c.execute(text("LOCK TABLE alerts IN ACCESS EXCLUSIVE MODE"))
        query = select(t.alerts.c.alert_id)
        asked = [asyncio.create_task(in_thread(fetched, engine, query)) for _ in range(MANY)]
        began = time.monotonic()
        for _ in range(MANY):  # as events are decoded, and the registry is read
            await asyncio.to_thread(time.monotonic)
        assert time.monotonic() - began < 0.3, "threads of others are free"
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, AWAY) for answer in answers), answers
    assert await in_thread(fetched, engine, query) == []
    person.dispose()


async def test_one_that_says_nothing_has_an_end(engine: Engine) -> None:
    pid = backend(engine)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(AWAY, match=r"no answer within 0.3 s"):
            await in_thread(fetched, engine, select(t.alerts.c.alert_id), within_s=0.3)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await in_thread(fetched, engine, select(t.alerts.c.alert_id)) == []
