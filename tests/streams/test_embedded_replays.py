"""The same log gives the embedded host's same bits: replayed, read late, observed, forgotten, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.streams.host_runs import PARTITIONS, Straight, digest, host_on, inputs, outputs, process_all, run
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog


def test_replaying_the_log_gives_the_same_bytes(straight: Straight) -> None:
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log)
    run(log, host, inputs())
    assert outputs(log) == straight.outputs
    assert host.stats == straight.host.stats
    for name, pipeline in host.pipelines.items():
        assert pipeline.snapshot() == straight.host.pipelines[name].snapshot()
    assert host.store.snapshot() == straight.host.store.snapshot()


def test_a_host_that_comes_late_makes_the_same_outputs(straight: Straight) -> None:
    """Whether it reads along or finds the whole log waiting."""
    log = EmbeddedLog(PARTITIONS)
    for topic, records in inputs():
        log.append(topic, records)
    waiting = log.next_seq
    host = host_on(log)
    assert process_all(host) == sum(len(records) for _, records in inputs())
    assert outputs(log) == straight.outputs
    assert next(log.read(topics.OUTPUTS, 0)).seq >= waiting
    assert process_all(host) == 0


def test_the_observer_sees_every_step_and_changes_nothing(straight: Straight) -> None:
    seen: list[str] = []
    log = EmbeddedLog(PARTITIONS)
    host = host_on(log, observe=lambda pipeline, _: seen.append(pipeline.task.name))
    run(log, host, inputs()[:9])
    assert {*seen} == {"fraud", "device_failure", "churn"}
    for topic, made in outputs(log).items():
        assert made == straight.outputs[topic][: len(made)]


def test_the_log_may_forget_what_was_processed(straight: Straight, tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path) as log:
        host = host_on(log)
        for topic, records in inputs():
            log.append(topic, records)
            process_all(host)
            log.forget(host.seq)
        assert outputs(log) == straight.outputs
    assert np.isfinite([i.watermark for i in host.intake.values()]).all()


def test_another_process_makes_the_same_bits(straight: Straight, tmp_path: Path) -> None:
    """Nothing depends on the order in which this process happens to hash texts."""
    program = """
from tests.streams.host_runs import Straight, digest
print(digest(Straight()))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == digest(straight)
