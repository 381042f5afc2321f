"""The tables: those of the code are those that the migrations make, and a wrong address is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg.errors import ConnectionTimeout, DiskFull, LockNotAvailable, ReadOnlySqlTransaction
from sqlalchemy import Engine, MetaData, create_engine, select, text
from sqlalchemy.exc import OperationalError

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import StateError, UsageError
from weir.streams.service.parts import DatabaseAway
from weir.streams.service.store.database import NEWEST, migrate, open_database
from weir.streams.service.store.tables import alerts, metadata


def settings(directory: Path, database: str | None = None) -> ServeSettings:
    return ServeSettings.model_validate({"directory": directory, "database": database})


def test_migrations_make_the_tables_of_the_code_and_may_be_run_again(tmp_path: Path) -> None:
    engine = open_database(settings(tmp_path))
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == NEWEST, "else each start would import Alembic"
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    engine.dispose()


UPGRADED = [("", 1.5, 7.0), ("amount", 4.0, 7.0), ("night", 1.5, 7.0)]


def upgraded(engine: Engine) -> list[tuple[str, float, float | None]]:
    """Reason, expected loss and hold of alerts that the version before case work has written."""
    indexes = [
        "newest ON alerts (opened_at, alert_id, score, severity, task)",
        "score ON alerts (score, alert_id, severity, task)",
        "severity ON alerts (severity, score, alert_id, task)",
        "expected_loss ON alerts (expected_loss, alert_id, score, severity, task)",
        "state_newest ON alerts (state, opened_at, alert_id, task, verdict)",
        "state_score ON alerts (state, score, alert_id, task, verdict)",
        "state_severity ON alerts (state, severity, score, alert_id, task, verdict)",
        "state_expected_loss ON alerts (state, expected_loss, alert_id, task, verdict)",
        *(f"{name} ON alerts ({name}, opened_at, alert_id)" for name in ("task", "entity_id", "verdict")),
        "assignee ON alerts (assignee, opened_at, alert_id) WHERE assignee IS NOT NULL",
    ]
    real = "DOUBLE" if engine.dialect.name == "sqlite" else "DOUBLE PRECISION"
    columns = [f"{name} TEXT NOT NULL" for name in ("task", "entity_id", "status", "reasons", "event_ids", "state")]
    amounts = ("score", "threshold", "expected_loss", "opened_at", "updated_at")
    columns += [f"{name} {real} NOT NULL" for name in amounts]
    columns += [f"{name} INTEGER NOT NULL" for name in ("severity", "version", "generation")]
    columns += [f"{name} TEXT" for name in ("verdict", "verdict_by", "reopened", "assignee", "changed_by")]
    columns += [f"{name} {real}" for name in ("verdict_at", "claimed_until", "snoozed_until", "changed_at")]
    made = f"CREATE TABLE alerts (alert_id TEXT NOT NULL PRIMARY KEY, {', '.join(columns)})"
    with engine.begin() as connection:
        for statement in (made, *(f"CREATE INDEX alerts_{index}" for index in indexes)):
            connection.execute(text(statement))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0002')"))
    facts = {"task": "fraud", "entity_id": "u", "status": "open", "state": "open", "event_ids": "[]", "score": 0.5}
    facts |= {"threshold": 0.5, "opened_at": 1.0, "updated_at": 1.0, "severity": 2, "version": 0, "generation": 0}
    with engine.begin() as connection:
        old = MetaData()
        old.reflect(connection)
        for reasons in ("[]", '[{"feature":"amount","value":8.0}]', '[{"feature":"night","value":1.0}]'):
            row = facts | {"alert_id": reasons, "reasons": reasons, "expected_loss": 4.0, "snoozed_until": 7.0}
            connection.execute(old.tables["alerts"].insert().values(row))
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        a = alerts.c
        rows = connection.execute(select(a.reason, a.expected_loss, a.held_until).order_by(a.reason))
        return [(row[0], row[1], row[2]) for row in rows]


def test_alerts_of_before_get_what_a_rebuild_would_give_them(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'alerts.db'}")
    assert upgraded(engine) == UPGRADED
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    engine = open_database(settings(tmp_path))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StateError, match="a newer Weir has written it"):
        open_database(settings(tmp_path))


@pytest.mark.parametrize("url", ["mysql://x/y", "no url", "nosuch://x", "postgresql+nosuch://x/y"])
def test_what_is_no_address_of_a_database_says_what_is(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=r"\[serve\] database: give postgresql\+psycopg"):
        open_database(settings(tmp_path, url))


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"postgresql\+psycopg://weir:\*\*\*@127.0.0.1:1/db.*correct it") as told:
        open_database(settings(tmp_path, "postgresql+psycopg://weir:secret@127.0.0.1:1/db"))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DiskFull, "its disk is full; make room there"),
        (ReadOnlySqlTransaction, "it only reads; see that [serve] database leads to the primary"),
        (LockNotAvailable, "somebody holds a lock there; end that transaction"),
        (ConnectionTimeout, "OperationalError; see that [serve] database can be reached"),
    ],
)
def test_whoever_needs_a_database_in_trouble_is_told_which_without_its_own_words(
    error: type[Exception], words: str
) -> None:
    told = DatabaseAway(OperationalError("INSERT", None, error("host db-1, user weir")))
    assert told.detail == f"nothing was done that needs it: {words}"
