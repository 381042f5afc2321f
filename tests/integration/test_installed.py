"""Weir as ``pip install`` brings it: beside a user's own packages called ``models``, ``online`` and ``streams``; and
with the extra ``kafka`` alone it reads records of every codec, by the real transport."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.integration.copying import read
from tests.integration.kafka_broker import REPOSITORY, Broker, eventually
from weir.streams.kafka.consume.codecs import NAMES

pytestmark = pytest.mark.integration

EACH = 50
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""So that what is installed is imported, and not the repository."""
OWN = ("models", "online", "streams")
TASK = REPOSITORY / "streams" / "demo" / "tasks" / "device_failure.toml"
USE = """
import models, online, streams
assert (models.OWN, online.OWN, streams.OWN) == ("models", "online", "streams")
import weir
print(weir.load_task(__import__("pathlib").Path({task!r})).name)
assert models.OWN == "models"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clone: what is not committed is not in it."""
    clone, out = tmp_path_factory.mktemp("clone") / "weir", tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(clone)], check=True)
    return next(out.glob("weir-*.whl"))


def test_a_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        modules = {name for name in files if name.endswith(".py")}
        links = [info.filename for info in archive.infolist() if (info.external_attr >> 16) & 0o170000 == 0o120000]
    assert {name.split("/")[0] for name in files} == {"weir"}
    assert modules == {
        "weir/__init__.py",
        "weir/client.py",
        *(f"weir/{p.relative_to(REPOSITORY)}" for folder in OWN for p in (REPOSITORY / folder).rglob("*.py")),
    }
    assert {"weir/py.typed", "weir/streams/demo/tasks/fraud.toml"} <= set(files)
    assert not links, "a wheel cannot hold links"


def install(home: Path, what: str) -> None:
    """Install a package and what it needs into an environment, by this one's pip."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(home / "bin" / "python")]
    constraints = str(REPOSITORY / "constraints.txt")
    subprocess.run([*pip, "install", "--quiet", "--no-compile", "--constraint", constraints, what], check=True)


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what that needs, without any extra."""
    home = tmp_path_factory.mktemp("core") / "venv"
    venv.create(home)
    install(home, str(wheel))
    return home


def test_a_wheel_beside_packages_of_the_same_names(core: Path, tmp_path: Path) -> None:
    python = str(core / "bin" / "python")
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    for name in OWN:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"OWN = {name!r}\n")
    used = subprocess.check_output([python, "-c", USE.format(task=str(TASK))], cwd=tmp_path, text=True, env=ENVIRONMENT)
    assert used.strip() == "device_failure"
    shown = subprocess.check_output([str(core / "bin" / "weir"), "--version"], cwd=tmp_path, text=True, env=ENVIRONMENT)
    assert shown.startswith("weir ")


async def _produce(kafka: Broker, topic: str, codec: str | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.direct, compression_type=codec, linger_ms=20)
    await producer.start()
    try:
        for i in range(EACH):
            await producer.send(topic, b"%s-%d" % (str(codec).encode(), i) * 9, b"key")
    finally:
        await producer.stop()


def test_an_installation_with_the_kafka_extra_reads_every_codec(
    kafka: Broker, new_topic: Callable[..., str], wheel: Path, core: Path, tmp_path: Path
) -> None:
    """A worker of such an installation ended at the first batch of zstd, lz4 or snappy."""
    python = str(core / "bin" / "python")
    install(core, f"{wheel}[kafka]")
    source, target = new_topic(1), new_topic(1)
    for codec in (None, *NAMES[1:]):
        asyncio.run(_produce(kafka, source, codec))
    script = REPOSITORY / "tests" / "integration" / "transport_worker.py"
    command = [python, "-P", str(script), "--bootstrap", kafka.direct, "--source", source, "--target", target]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [*command, "--group", "installed"], cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log
        )
        try:
            eventually(
                lambda: len(read(kafka, target)) >= EACH * len(NAMES) or worker.poll() is not None, 60, "all are copied"
            )
        finally:
            worker.terminate()
            worker.wait(20)
    said = (tmp_path / "log").read_text(errors="replace")
    copied = [r.value.split(b":", 3)[3] for r in read(kafka, target)]
    assert len(copied) == EACH * len(NAMES), said[-2_000:]
    told = subprocess.run(
        [python, "-P", "-m", "weir.streams.cli.main", "doctor"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "gzip, snappy, lz4 and zstd can be read" in told.stdout
