"""docker-compose.yml and deploy/ without a Docker engine: loaded, parsed or run by what would read them."""

from __future__ import annotations

import asyncio
import configparser
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from tests.streams.compose_file import ROOT, SERVICES, compose, mounts, settings_of
from weir.streams.cli import app as tree
from weir.streams.cli.options import tasks_of
from weir.streams.ops.metrics import Metrics
from weir.streams.ops.web import WebServer

OURS = [name for name, service in SERVICES.items() if "build" in service]
WORKERS = [name for name in OURS if name.startswith("worker")]


def test_there_is_everything_a_deployment_needs() -> None:
    assert {"kafka", "redis", "topics", "worker", "worker-score", "worker-label", "prometheus"} <= set(SERVICES)
    assert {name for name, s in SERVICES.items() if "profiles" not in s} == {
        "kafka",
        "postgres",
        "redis",
        "serve",
        "topics",
        "trainer",
        "worker",
    }


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_a_version_of_its_own(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z./-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", image), image
    if name in OURS:
        assert image == f"weir:{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}"


@pytest.mark.parametrize("name", OURS)
def test_the_environment_of_a_container_loads_as_settings(name: str) -> None:
    settings = settings_of(name)
    assert settings.redis.username == "weir"
    assert settings.topics.replication == 1, "there is one broker"
    host, port = settings.kafka.bootstrap[0].split(":")
    assert f"INTERNAL://{host}:{port}" in SERVICES[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.redis.url.get_secret_value() == "redis://redis:6379/0"
    assert "redis" in SERVICES


def test_every_value_is_a_text_as_environments_are() -> None:
    for name, service in SERVICES.items():
        assert all(isinstance(value, str) for value in service.get("environment", {}).values()), name


def test_workers_differ_by_role_and_share_everything_else() -> None:
    found = {name: settings_of(name) for name in WORKERS}
    assert {name: s.worker.role for name, s in found.items()} == {
        "worker": "all", "worker-score": "score", "worker-label": "label"
    }  # fmt: skip
    assert len({str(s.model_copy(update={"worker": None})) for s in found.values()}) == 1
    assert all(s.worker.instance_id == "auto" for s in found.values()), "a container that is restarted comes back"


@pytest.mark.parametrize("name", WORKERS)
def test_the_tasks_that_are_mounted_can_be_read(name: str) -> None:
    settings = settings_of(name)
    inside = mounts(SERVICES[name])
    assert [task.name for task in tasks_of([ROOT / inside[str(path)] for path in settings.worker.tasks], settings)]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists_and_volumes_are_declared(name: str) -> None:
    for inside, outside in mounts(SERVICES[name]).items():
        made_by_init = outside == "./deploy/secrets/redis-users.acl"
        assert made_by_init or (ROOT / outside).exists(), f"{outside} -> {inside}"
    named = {v.split(":")[0] for v in SERVICES[name].get("volumes", ())} - set(mounts(SERVICES[name]).values())
    assert named <= set(compose()["volumes"])


def test_no_volume_is_declared_for_nothing() -> None:
    used = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", ())}
    assert set(compose()["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_happen(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "on-failure", "it ends, and is tried again only when it failed"
        assert "profiles" not in SERVICES[other], "a profile that is off would not start it"


def test_workers_can_be_many_and_no_port_is_open_beyond_this_machine() -> None:
    taken: list[str] = []
    for name, service in SERVICES.items():
        assert "container_name" not in service
        ports = service.get("ports", [])
        assert not (ports and name in WORKERS), "two of them could not have one port"
        assert all(port.startswith("127.0.0.1:") for port in ports)
        taken += [port.split(":")[1] for port in ports]
    assert len(set(taken)) == len(taken) > 0
    assert compose(WORKERS="3")["services"]["worker"]["deploy"]["replicas"] == 3


def test_long_lived_services_are_restarted_and_watched() -> None:
    for name in ("kafka", "redis", "postgres", *WORKERS, "trainer", "serve", "prometheus"):
        assert SERVICES[name]["restart"] == "unless-stopped"
        assert "healthcheck" in SERVICES[name]


@pytest.mark.parametrize("name", [name for name, s in SERVICES.items() if "healthcheck" in s])
def test_a_health_check_is_a_command_that_parses(name: str) -> None:
    kind, *words = SERVICES[name]["healthcheck"]["test"]
    assert kind in ("CMD", "CMD-SHELL")
    if kind == "CMD-SHELL":
        (script,) = words
        subprocess.run(["sh", "-n", "-c", script], check=True)
    elif words[0] == "python":
        compile(words[-1], name, "exec")


@pytest.mark.parametrize(("service", "port"), [("worker", 8090), ("trainer", 8091), ("serve", 8080)])
@pytest.mark.parametrize("reasons", [[], ["no partitions were assigned yet"]])
async def test_a_container_is_healthy_exactly_while_it_is_ready(service: str, port: int, reasons: list[str]) -> None:
    class Status:
        def ready(self) -> list[str]:
            return reasons

        def describe(self) -> Mapping[str, object]:
            return {}

    async with WebServer("127.0.0.1", 0, Status(), Metrics()) as server:
        _, program, *words = SERVICES[service]["healthcheck"]["test"]
        assert program == "python"
        script = [word.replace(f":{port}/", f":{server.port}/") for word in words]
        done = await asyncio.create_subprocess_exec(sys.executable, *script, stderr=asyncio.subprocess.DEVNULL)
        assert await done.wait() == (1 if reasons else 0)


@pytest.mark.parametrize("name", WORKERS)
def test_the_web_port_is_the_same_wherever_it_is_named(name: str) -> None:
    worker = settings_of(name).worker
    assert (worker.web_host, worker.web_port) == ("0.0.0.0", 8090)
    assert SERVICES[name]["expose"] == ["8090"]
    assert "127.0.0.1:8090/ready" in SERVICES[name]["healthcheck"]["test"][-1]
    found = watched("weir")
    assert found["port"] == 8090
    assert name in found["names"]
    assert set(found["names"]) == set(WORKERS)


def test_the_trainer_is_watched_where_it_listens() -> None:
    trainer = settings_of("trainer").trainer
    assert (trainer.web_host, trainer.web_port) == ("0.0.0.0", 8091)
    assert SERVICES["trainer"]["expose"] == ["8091"]
    assert "127.0.0.1:8091/ready" in SERVICES["trainer"]["healthcheck"]["test"][-1]
    assert watched("weir-trainer") == {"names": ["trainer"], "type": "A", "port": 8091, "refresh_interval": "10s"}


def test_the_service_listens_where_its_port_and_its_health_check_say() -> None:
    serve = settings_of("serve").serve
    assert (serve.host, serve.port) == ("0.0.0.0", 8080)
    assert settings_of("worker").worker.decisions, "the service answers by what workers decide"
    assert SERVICES["serve"]["ports"] == ["127.0.0.1:8080:8080"]
    assert serve.database is not None
    url = urlsplit(serve.database.get_secret_value())
    assert watched("weir-serve") == {"names": ["serve"], "type": "A", "port": 8080, "refresh_interval": "10s"}
    postgres = SERVICES["postgres"]["environment"]
    assert (url.hostname, url.username, url.path) == (
        "postgres",
        postgres["POSTGRES_USER"],
        f"/{postgres['POSTGRES_DB']}",
    )


def watched(job: str) -> dict[str, Any]:
    """Where Prometheus looks for the containers of a job."""
    jobs = {j["job_name"]: j for j in yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]}
    (found,) = jobs[job]["dns_sd_configs"]
    return dict(found)


def weir(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(tree.app, [*arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_container_exists(name: str) -> None:
    words = SERVICES[name].get("command", ["worker"])
    assert weir(*words, "--help")[0] == 0


# The image


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_from_files_that_are_there_and_let_through() -> None:
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    copied = [w for word, rest in dockerfile() if word == "COPY" and "--from" not in rest for w in rest.split()[:-1]]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_pinned_and_runs_a_worker_without_rights() -> None:
    bases = [rest.split()[0] for word, rest in dockerfile() if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases)
    final = dict(dockerfile())
    assert final["USER"] not in ("root", "0")
    assert (final["ENTRYPOINT"], final["CMD"]) == ('["weir"]', '["worker"]')
    assert "--constraint constraints.txt" in next(rest for word, rest in dockerfile() if "pip install" in rest)


def test_kernels_are_compiled_into_a_volume() -> None:
    (env,) = [rest for word, rest in dockerfile() if word == "ENV"]
    cache = dict(pair.split("=") for pair in env.split())["NUMBA_CACHE_DIR"]
    assert all(f"kernels:{cache}" in SERVICES[name]["volumes"] for name in OURS)


UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def unit_of(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit


def test_there_is_a_unit_for_everything_that_runs() -> None:
    commands = {shlex.split(unit_of(path)["Service"]["ExecStart"])[1] for path in UNITS}
    assert commands == {"worker", "inference", "trainer", "archive", "serve"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_of_systemd_starts_a_command_with_options_that_exist(path: Path) -> None:
    unit = unit_of(path)
    service = unit["Service"]
    program, command, *options = shlex.split(service["ExecStart"])
    assert Path(program).name == "weir"
    status, shown = weir(command, "--help")
    assert status == 0
    assert all(option in shown for option in options if option.startswith("--"))
    if service["Type"] == "exec":
        assert (service["Restart"], unit["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    else:
        assert path.with_suffix(".timer").exists()


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_no_rights_it_does_not_need(path: Path) -> None:
    service = unit_of(path)["Service"]
    assert service["User"] != "root"
    assert service["CapabilityBoundingSet"] == ""
    assert {service[name] for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID")} == {"true"}
    assert service["ProtectSystem"] == "strict"
    assert service["MemoryMax"].endswith("G")
    for option in ("--work", "--out"):
        words = shlex.split(service["ExecStart"])
        if option in words:
            place = Path(words[words.index(option) + 1])
            assert place.name in service["StateDirectory"].split(), f"{place} could not be written"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_it_does_not_need_and_a_limit_of_memory(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+g", service["mem_limit"])
    assert service.get("read_only", False) or name == "kafka", "Kafka's image writes its configuration"
    assert set(service.get("cap_add", ())) <= {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert "cap_add" not in service or name in ("redis", "postgres")
