"""``weir serve`` before it serves: what it looks at, and what it says of an address or a directory it cannot have."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import pytest
import uvicorn

from tests.integration.forked import start
from tests.service.engine_runs import service_in
from tests.streams.host_runs import CHURN, FRAUD, tasks
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.ops.fleet import WEIR
from weir.streams.service.run import Server, configured, listening
from weir.streams.service.serve_checks import check_serve
from weir.streams.service.store.database import sole_service

pytestmark = pytest.mark.anyio


def settings_of(**serve: object) -> Settings:
    return Settings.model_validate({"serve": serve})


def test_an_address_that_is_taken_says_what_to_do() -> None:
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"cannot listen at 127.0.0.1:{port}: Address already in use; give another"
        ):
            listening("127.0.0.1", port)
        (found, *_) = check_serve(settings_of(port=port), tasks(FRAUD), embedded=False)
        assert (found.name, found.status) == ("address", "FAIL")


def test_the_check_makes_nothing_and_tells_whose_directory_it_is(tmp_path: Path) -> None:
    new = settings_of(directory=str(tmp_path / "new"), port=0)
    assert [c.status for c in check_serve(new, tasks(FRAUD), embedded=True)] == ["OK", "OK"]
    assert not (tmp_path / "new").exists()
    service = service_in(tmp_path / "held", tasks(FRAUD))
    held = settings_of(directory=str(tmp_path / "held"), port=0)
    assert "is in use by process" in check_serve(held, tasks(FRAUD), embedded=True)[-1].found
    service.log.engine.directory.close()  # type: ignore[attr-defined]
    assert f"epoch {service.log.epoch}" in check_serve(held, tasks(FRAUD), embedded=True)[-1].found
    assert "changed since: churn, fraud" in check_serve(held, tasks(CHURN), embedded=True)[-1].found


@pytest.mark.parametrize("mode", [["--kafka"], []])
def test_a_database_that_is_a_file_is_of_one_service(
    mode: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way it runs; the second has changed nothing when it is refused. A server has replicas."""
    monkeypatch.chdir(tmp_path)
    Path("fraud.toml").write_text(FRAUD)
    shared = settings_of(directory=str(tmp_path / "one"), database=f"sqlite:///{tmp_path}/shared.db", port=0)
    for held, given in ((settings_of(directory="data"), {}), (shared, {"WEIR_SERVE__DATABASE": "sqlite:///shared.db"})):
        with sole_service(held.serve):
            (database,) = (c for c in check_serve(held, tasks(FRAUD), embedded=not mode) if c.name == "database")
            assert (database.status, "is in use by process" in database.found) == ("FAIL", True)
            for name, value in given.items():
                monkeypatch.setenv(name, value)
            said = tmp_path / "said.txt"
            with said.open("wb") as out:
                command = [*WEIR, "serve", "fraud.toml", "--dir", "data", "--port", "0", *mode]
                refused = start(command, dict(os.environ), out, tmp_path)
            assert refused.wait(60) == 2, said.read_text()
            words = rf"\.db is in use by process {os.getpid()}; stop that one, or give another directory by --dir"
            assert re.search(words, " ".join(said.read_text().split()))
            assert not [*tmp_path.rglob("*.db"), *tmp_path.rglob("service.json")]
        with sole_service(held.serve), sole_service(settings_of(directory=str(tmp_path / "other")).serve):
            pass
    server = settings_of(database="postgresql+psycopg://weir@127.0.0.1:1/weir").serve
    with sole_service(server), sole_service(server):
        pass


def test_a_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    def found(database: str) -> tuple[str, str]:
        checks = check_serve(settings_of(database=database, port=0), tasks(FRAUD), embedded=False)
        ((status, words),) = [(check.status, check.found) for check in checks if check.name == "database"]
        return status, words

    for wrong in ("nonsense", "mysql://weir:hush@db/weir", "postgresql+nothing://db/weir"):
        status, words = found(wrong)
        assert (status, "give postgresql+psycopg://" in words, "hush" in words) == ("FAIL", True, False), wrong
    away = found("postgresql+psycopg://weir:hush@127.0.0.1:1/weir")
    assert away[0] == "FAIL"
    assert away[1].startswith("postgresql+psycopg://weir:***@127.0.0.1:1/weir: ")
    assert found(f"sqlite:///{tmp_path}/alerts.db") == ("OK", f"sqlite:///{tmp_path}/alerts.db, new")
    assert not (tmp_path / "alerts.db").exists()


def test_what_others_can_reach_without_encryption_is_a_warning() -> None:
    open_ = check_serve(settings_of(host="0.0.0.0", port=0), tasks(FRAUD), embedded=False)
    assert [(c.name, c.status) for c in open_] == [("address", "OK"), ("tls", "WARN"), ("decisions", "WARN")]
    behind = settings_of(host="0.0.0.0", port=0, trusted_proxies=["10.0.0.0/8"])
    assert [c.status for c in check_serve(behind, tasks(FRAUD), embedded=False)] == ["OK", "WARN"]
    files = settings_of(port=0, tls_cert="/none/cert.pem", tls_key="/none/key.pem")
    assert "no such file: /none/cert.pem, /none/key.pem" in check_serve(files, tasks(FRAUD), embedded=False)[1].found


def test_forwarded_headers_are_believed_of_trusted_proxies_only(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    alone = configured(service, settings_of().serve)
    assert (alone.proxy_headers, alone.server_header) == (False, False)
    behind = configured(service, settings_of(trusted_proxies=["10.0.0.0/8"]).serve)
    assert (behind.proxy_headers, behind.forwarded_allow_ips) == (True, ["10.0.0.0/8"])


class Endless:
    """A part that answers until it is stopped, as a feed does."""

    def __init__(self) -> None:
        self.stopped, self.asked = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        self.asked.set()
        await self.stopped.wait()
        await send({"type": "http.response.body", "body": b"the end"})  # type: ignore[operator]

    async def drain(self) -> None:
        self.stopped.set()

    @property
    def access(self) -> Endless:
        return self

    def link(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/"

    fault = ""
    console = None


async def test_a_stop_ends_long_answers_first_and_a_fault_is_a_stop() -> None:
    for fault in ("", "the tasks crashed"):
        part = Endless()
        server = Server(uvicorn.Config(part, lifespan="off", log_config=None), part)  # type: ignore[arg-type]
        with listening("127.0.0.1", 0) as bound:
            running = asyncio.create_task(server.serve([bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*bound.getsockname(), family=socket.AF_INET)
            writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            await part.asked.wait()
            if fault:
                part.fault = fault
            else:
                server.stop()
            async with asyncio.timeout(20):
                assert b"the end" in await reader.read()
                await running
            writer.close()
