"""What a trainer tells Prometheus and an orchestrator, over HTTP, while its jobs go by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.streams.trainer_fakes import NOW, Clock, FakeShelf, SkillBuilder, World, fake_score, request, spec
from tests.streams.trainer_fakes import training_data as data
from weir.models.errors import RegistryError
from weir.online.codec.wire import ModelUpdate
from weir.streams.ops.metric_registry import Registry
from weir.streams.ops.web import WebServer
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_runner import InlineRunner
from weir.streams.trainer.state_journal import Journal, MemoryJournal
from weir.streams.trainer.task_supervisor import TaskSupervisor
from weir.streams.trainer.trainer_process import TrainerStatus

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "weir.streams.trainer")


class Away(MemoryJournal):
    """A journal whose storage can be taken away."""

    gone = False

    def newest(self, task: str) -> tuple[int, bytes] | None:
        if self.gone:
            raise RegistryError("the share is not mounted")
        return super().newest(task)


class Watched:
    """One bench with its status, and what is read of both."""

    def __init__(self, tmp: Path, journal: Journal | None = None, shelf: FakeShelf | None = None) -> None:
        self.clock, self.registry, self.shelf = Clock(), Registry(), shelf or FakeShelf()
        self.journal = journal or MemoryJournal()
        self.updates: list[ModelUpdate] = []
        self.trouble, self.builders = "", {"trees": SkillBuilder(2.0)}
        shop = JobWorkshop(data, self.builders, None, fake_score, InlineRunner(), tmp)
        self.bench = TaskSupervisor(
            spec(), self.journal, self.shelf, shop, self.updates.append, owner=str(id(self)), lease_s=30.0,
            clock=self.clock, metrics=self.registry,
        )  # fmt: skip
        self.world = World(tmp / "rows", shelf=self.shelf, clock=self.clock)
        self.status = TrainerStatus([self.bench], lambda: self.trouble, 10.0, self.clock)

    def beat(self) -> None:
        self.bench.beat()
        self.bench.ask_champion()
        self.status.beaten()

    def train(self, number: int, skill: float = 2.0) -> None:
        """A request, and its job as far as it goes without labels."""
        self.builders["trees"] = SkillBuilder(skill)
        self.bench.trainer.ask(request(number, self.clock.now))
        self.beat()
        self.bench.work()

    def live(self, n: int) -> None:
        self.bench.give(self.world.rows(n), self.world.events)

    def read(self) -> tuple[Samples, int, Any]:
        """Metrics, and status and document of ``/ready``."""

        async def run() -> tuple[Samples, int, Any]:
            async with WebServer("127.0.0.1", 0, self.status, self.registry) as web, aiohttp.ClientSession() as client:
                async with client.get(f"{web.url}/ready") as ready:
                    status, told = ready.status, await ready.json()
                async with client.get(f"{web.url}/metrics") as metrics:
                    families = text_string_to_metric_families(await metrics.text())
                async with client.get(f"{web.url}/health") as health:
                    assert health.status == 200, "the loop turns, whatever the trainer is at"
                samples = [s for family in families for s in family.samples]
                return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}, status, told

        return asyncio.run(run())


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"weir_trainer_{name}", tuple(sorted({"task": "fraud", **labels}.items()))))


def test_jobs_are_counted_by_what_became_of_them(watched: Watched) -> None:
    watched.train(1)
    assert of(watched.read()[0], "jobs_total", outcome="promoted") is None, "the shadow has seen no label"
    watched.live(200)
    watched.clock.now += 86_400
    watched.train(2, skill=0.1)
    watched.clock.now += 86_400
    watched.builders["trees"] = SkillBuilder(1.0, mood="badly")
    watched.bench.trainer.ask(request(3, watched.clock.now))
    watched.beat()
    watched.bench.work()
    samples, _, _ = watched.read()
    outcomes = ("promoted", "rejected", "failed", "retired")
    assert [of(samples, "jobs_total", outcome=outcome) for outcome in outcomes] == [1, 1, 1, None]
    assert of(samples, "champion_version") == 1
    assert of(samples, "requests_total", answer="accepted") == 3


def test_a_promotion_that_is_taken_back_counts_as_both(watched: Watched) -> None:
    for number, skill in ((1, 1.5), (2, 3.0)):
        watched.train(number, skill)
        watched.live(200)
        watched.clock.now += 86_400
    watched.world.drop[2] = 0.1
    watched.live(200)
    samples, _, _ = watched.read()
    found = {outcome: of(samples, "jobs_total", outcome=outcome) for outcome in ("promoted", "rolled back")}
    assert found == {"promoted": 2, "rolled back": 1}


def test_stages_are_timed_and_the_gate_shows_its_figures(watched: Watched) -> None:
    watched.train(1)
    samples, _, _ = watched.read()
    stages = ("gather", "train", "judge", "register", "shadow")
    assert [of(samples, "stage_seconds_count", stage=stage) for stage in stages] == [1] * 5
    job = watched.bench.state.job
    assert job is not None
    figures = {figure: of(samples, "gate", figure=figure) for figure in ("candidate", "champion", "low")}
    gate = ("gate_metric", "gate_champion", "gate_low")
    assert list(figures.values()) == [job.metrics[name] for name in gate]
    assert (figures["low"] or 0) > 0


def test_a_trainer_that_starts_shows_the_gate_of_the_job_before_it(tmp_path: Path) -> None:
    first = Watched(tmp_path)
    first.train(1)
    second = Watched(tmp_path, first.journal, first.shelf)
    name = {"figure": "candidate"}
    assert of(second.read()[0], "gate", **name) == of(first.read()[0], "gate", **name) is not None
    assert of(second.read()[0], "jobs_total", outcome="promoted") is None


def test_the_queue_is_what_waits_and_what_is_at_work(watched: Watched) -> None:
    assert of(watched.read()[0], "queue_jobs") == 0
    watched.bench.trainer.ask(request(1))
    assert of(watched.read()[0], "queue_jobs") == 1
    watched.beat()
    assert of(watched.read()[0], "held") == 1
    watched.bench.work()
    assert of(watched.read()[0], "queue_jobs") == 0, "it waits for labels, which is no work"
    watched.bench.trainer.ask(request(2, NOW + 7200))
    samples, _, told = watched.read()
    assert of(samples, "queue_jobs") == 1
    task = told["tasks"]["fraud"]
    assert (task["job"]["stage"], task["waits"], task["judged"]["kind"]) == ("shadowing", "r2", "shadow")


def test_only_the_trainer_that_ends_a_job_counts_it_and_both_are_ready(tmp_path: Path) -> None:
    journal, shelf = MemoryJournal(), FakeShelf()
    one, two = Watched(tmp_path / "1", journal, shelf), Watched(tmp_path / "2", journal, shelf)
    one.train(1)
    two.beat()
    one.live(200)
    two.beat()
    counts = [of(watched.read()[0], "jobs_total", outcome="promoted") for watched in (one, two)]
    assert counts == [1, None]
    assert [of(watched.read()[0], "held") for watched in (one, two)] == [1, 0]
    assert [watched.read()[1] for watched in (one, two)] == [200, 200]


def test_it_is_ready_while_it_can_do_its_work(tmp_path: Path) -> None:
    journal = Away()
    watched = Watched(tmp_path, journal)
    _, status, told = watched.read()
    assert (status, told["reasons"]) == (503, ["no task was looked at yet: the trainer is starting"])
    watched.beat()
    assert watched.read()[1] == 200
    journal.gone = True
    watched.beat()
    samples, status, told = watched.read()
    assert (status, samples["weir_ready", ()]) == (503, 0)
    assert told["reasons"] == ["task fraud: the share is not mounted"]
    journal.gone = False
    watched.beat()
    watched.trouble = "no broker answers"
    assert watched.read()[2]["reasons"] == ["requests are not read: no broker answers"]
    watched.trouble = ""
    watched.clock.now += 11.0
    assert "no task was looked at for 11 s" in watched.read()[2]["reasons"][0]
    watched.beat()
    assert watched.read()[1] == 200
