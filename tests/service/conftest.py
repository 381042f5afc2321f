"""Tests of the service's other parts talk to it as anyone on this machine may who has its token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi import routing
from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant
from fastapi.utils import create_model_field
from sqlalchemy import Engine

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.service.access.access import Access
from weir.streams.service.access.scopes import Caller, administrator
from weir.streams.service.store import cases, database


@pytest.fixture(autouse=True)
def as_administrator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends nothing is the administrator; ``tests/service/access`` has the real rule."""
    if request.path.parent.name == "access":
        return
    real = Access.identify

    async def identify(self: Access, asked: object) -> Caller:
        if "authorization" in asked.headers or asked.headers.get("cookie"):  # type: ignore[attr-defined]
            return await real(self, asked)  # type: ignore[arg-type]
        return administrator("token")

    monkeypatch.setattr(Access, "identify", identify)
    monkeypatch.setattr(Access, "visited", lambda *_: None)  # the audit would be in the log that a test looks at


@pytest.fixture(autouse=True, scope="session")
def no_power_cut_for_databases() -> Iterator[None]:
    """See ``no_power_cut`` of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_PRAGMAS", (*database._PRAGMAS, "synchronous=OFF"))
        patch.setattr(database, "_durable", lambda *_: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def handlers_read_once() -> Iterator[None]:
    """Hundreds of services have the same hundred handlers; FastAPI works out twice for each what it takes."""
    signature, signatures = utils._get_signature, dict[tuple[object, bool], inspect.Signature]()
    real, known = utils.get_dependant, dict[tuple[object, ...], Dependant]()
    field = cache(create_model_field)  # of a type of answers

    def called(call: Callable[..., Any]) -> tuple[object, bool]:
        return getattr(call, "__func__", call), inspect.ismethod(call)

    def signed(call: Callable[..., Any]) -> inspect.Signature:
        if (key := called(call)) not in signatures:
            signatures[key] = signature(call)
        return signatures[key]

    def read(*, call: Callable[..., Any], **of: Any) -> Dependant:
        if (key := (*called(call), repr(sorted(of.items())))) not in known:
            known[key] = real(call=call, **of)
        found = known[key]  # of the same method of another service, maybe; who asks adds what the route depends on
        return replace(found, call=call, dependencies=found.dependencies[:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_get_signature", signed)
        patch.setattr(routing, "create_model_field", field)
        for module in (routing, utils):  # the latter for what handlers depend on
            patch.setattr(module, "get_dependant", read)
        yield


@pytest.fixture(scope="session")
def made_tables(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An SQLite database with all tables, and nothing in them."""
    directory = tmp_path_factory.mktemp("tables")
    database.open_database(ServeSettings(directory=directory)).dispose()
    return (directory / database.SQLITE_FILE).read_bytes()


@pytest.fixture(autouse=True)
def tables_made_before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made_tables: bytes) -> None:
    """Hundreds of tests begin with an empty database: migrations make it once; those of migrations really run them."""
    if request.path.stem == "test_store_database":
        return
    real = database.migrate

    def migrate(engine: Engine) -> None:
        path = Path(str(engine.url.database))
        if engine.dialect.name == "sqlite" and not (path.is_file() and path.stat().st_size):
            path.write_bytes(made_tables)
        real(engine)

    monkeypatch.setattr(database, "migrate", migrate)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer waits for its effect, however busy the machine is; tests of what is told before that say so."""
    monkeypatch.setattr(cases, "PATIENCE_S", 60.0)
