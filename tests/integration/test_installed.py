"""``pip install 'weir[kafka]'`` alone reads records of every codec, by the real transport."""

from __future__ import annotations

import asyncio
import os
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.integration.copying import read
from tests.integration.kafka_broker import REPOSITORY, Broker, eventually
from weir.streams.kafka.consume.codecs import NAMES

pytestmark = pytest.mark.integration

EACH = 50


async def _produce(kafka: Broker, topic: str, codec: str | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.direct, compression_type=codec, linger_ms=20)
    await producer.start()
    try:
        for i in range(EACH):
            await producer.send(topic, b"%s-%d" % (str(codec).encode(), i) * 9, b"key")
    finally:
        await producer.stop()


def test_an_installation_with_the_kafka_extra_reads_every_codec(
    kafka: Broker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A worker of such an installation ended at the first batch of zstd, lz4 or snappy."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(REPOSITORY / "constraints.txt"), f"{REPOSITORY}[kafka]"], check=True)
    source, target = new_topic(1), new_topic(1)
    for codec in (None, *NAMES[1:]):
        asyncio.run(_produce(kafka, source, codec))
    script = REPOSITORY / "tests" / "integration" / "transport_worker.py"
    command = [python, "-P", str(script), "--bootstrap", kafka.direct, "--source", source, "--target", target]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([*command, "--group", "installed"], cwd=tmp_path, env=env, stdout=log, stderr=log)
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
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "gzip, snappy, lz4 and zstd can be read" in told.stdout
