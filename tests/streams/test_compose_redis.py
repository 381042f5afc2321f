"""The Redis of ``docker-compose.yml``: its password, what its user may do, and its memory."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from tests.streams.compose_file import ROOT, SERVICES, mounts, settings_of
from weir.streams.checks.redis_checks import check_redis, known_holes
from weir.streams.checks.rights import PRINCIPALS, redis_user
from weir.streams.config.settings import RedisSettings, SecretUrl
from weir.streams.redis.client import RedisClient

# Redis


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the deployment, after deploy/init."""
    root = tmp_path_factory.mktemp("deployment")
    shutil.copytree(ROOT / "deploy", root / "deploy", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([root / "deploy/init"], check=True, capture_output=True, cwd="/")
    return root


def password_of(root: Path) -> str:
    (line,) = [line for line in (root / ".env").read_text().splitlines() if line.startswith("REDIS_PASSWORD=")]
    return line.partition("=")[2]


def test_no_password_is_in_the_repository_and_compose_asks_for_one(made: Path) -> None:
    for name in ("REDIS_PASSWORD", "POSTGRES_PASSWORD"):
        assert f"${{{name}:?run deploy/init first}}" in (ROOT / "docker-compose.yml").read_text()
    assert "#<sha256>" in (ROOT / "deploy/redis-users.acl").read_text()
    assert re.fullmatch("[0-9a-f]{48}", password_of(made))
    assert (made / ".env").stat().st_mode & 0o077 == 0
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/.env", "/deploy/secrets/"} <= set(ignored)


def test_init_draws_a_password_once_and_its_hash_is_that_of_the_user(made: Path) -> None:
    before = (made / ".env").read_text(), (made / "deploy/secrets/redis-users.acl").read_text()
    subprocess.run([made / "deploy/init"], check=True, capture_output=True)
    assert ((made / ".env").read_text(), (made / "deploy/secrets/redis-users.acl").read_text()) == before
    assert f" #{hashlib.sha256(password_of(made).encode()).hexdigest()} " in before[1]


def test_the_user_of_redis_has_the_rights_of_the_table() -> None:
    everything = next(p for p in PRINCIPALS if p.name == "all")
    users = (ROOT / "deploy/redis-users.acl").read_text().splitlines()
    assert users[1] == f"user {redis_user(everything, 'weir', settings_of('worker').redis.prefix, '#<sha256>')}"


def test_redis_has_a_limit_below_that_of_its_container_and_drops_nothing() -> None:
    words = SERVICES["redis"]["command"]
    assert words[words.index("--maxmemory-policy") + 1] == "noeviction"
    limit = words[words.index("--maxmemory") + 1]
    assert int(limit.removesuffix("gb")) < int(SERVICES["redis"]["mem_limit"].removesuffix("g"))


@pytest.mark.parametrize(("image", "holes"), [("redis:7.2.7-bookworm", 1), (SERVICES["redis"]["image"], 0)])
def test_the_version_of_redis_has_no_known_hole(image: str, holes: int) -> None:
    assert len(known_holes({"redis_version": image.partition(":")[2]})) == holes


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    """Redis as docker-compose.yml starts it, on a port and in a directory of its own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here; install Debian's redis-server to check the ACL file with it")
    directory = tmp_path_factory.mktemp("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(made / mounts(SERVICES["redis"]).get(word, word)) if word.startswith("/etc") else word
             for word in SERVICES["redis"]["command"]]  # fmt: skip
    assert words[0] == "redis-server"
    command = [program, *words[1:], "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield _answering(port, process, directory / "log", password_of(made))
        finally:
            process.terminate()


def _answering(port: int, process: subprocess.Popen[bytes], log: Path, password: str) -> RedisSettings:
    configured = settings_of("worker").redis
    here = {"url": SecretUrl(f"redis://127.0.0.1:{port}/0"), "timeout_s": 5.0, "password": SecretStr(password)}
    settings = configured.model_copy(update=here)
    deadline = time.monotonic() + 20
    while True:
        try:
            with redis.Redis.from_url(**settings.client_options()) as client:
                client.ping()
            return settings
        except redis.ConnectionError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()


def test_redis_accepts_the_users_and_keeps_what_it_is_told(server: RedisSettings) -> None:
    assert {(c.name, c.status) for c in check_redis(server) if c.name != "Redis holes"} == {
        ("Redis", "OK"), ("Redis persistence", "OK"), ("Redis memory", "OK")
    }  # fmt: skip


async def test_the_user_may_do_all_that_a_worker_does(server: RedisSettings) -> None:
    link = RedisClient(server, prefix=server.prefix)
    await link.start()  # tries every right that the store needs
    await link.stop()


def test_the_user_may_do_nothing_else(server: RedisSettings) -> None:
    with redis.Redis.from_url(**server.client_options()) as client:
        for command in ("SET other:key 1", "GET other:key", "KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


def test_nobody_comes_in_without_a_name(server: RedisSettings) -> None:
    url = server.url.get_secret_value()
    with redis.Redis.from_url(url) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()


def test_the_health_check_of_redis_may_ping_and_no_more(server: RedisSettings) -> None:
    _, script = SERVICES["redis"]["healthcheck"]["test"]
    port = server.url.get_secret_value().split(":")[2].split("/")[0]
    here = script.replace("redis-cli", f"redis-cli -p {port}")
    assert subprocess.run(["sh", "-c", here], check=False).returncode == 0
    other = here.replace(" ping ", " get weir:x ").replace("PONG", "NOPERM")
    assert subprocess.run(["sh", "-c", other], check=False).returncode == 0
    assert subprocess.run(["sh", "-c", here.replace("--user health", "--user who")], check=False).returncode != 0
