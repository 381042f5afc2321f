"""What the trainer's core stands on: triggers and schedule, the journal, processes that train, the registry's shelf."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from models.manifest import Variant
from models.registry import Registry, RegistryError
from models.registry.registry import open_files
from models.types import BoolVector, Built, IntVector, ModelError, TrainingSet, TrainingStoppedError
from online.batch import ExampleBatch
from online.encode import encode_examples
from online.errors import StateError, TaskError
from online.full import FullSpec
from streams.cli.retrain import retrain_command
from streams.cli.trainer import trainer_command
from streams.errors import UsageError
from streams.settings_trainer import TrainerSettings
from streams.trainer.bench import Bench
from streams.trainer.errors import WorkDiedError
from streams.trainer.files import Workshop
from streams.trainer.journal import FilesJournal, Journal, MemoryJournal
from streams.trainer.live import LiveRows, decode_live
from streams.trainer.promotion import PhaseState, PromotionPhase, PromotionRules
from streams.trainer.runner import InlineRunner, SubprocessRunner
from streams.trainer.score import score
from streams.trainer.shelf import JOB_FILE, Origin, RegistryShelf
from streams.trainer.state import Asked, Effect, Job, TaskState, decode, encode
from streams.trainer.triggers import check_schedule, consider, due, scheduled
from streams.trainer.work import BuildWork, JudgeWork, get, put
from tests.streams.trainer_fakes import (
    DAY,
    NOW,
    SPEC,
    FakeShelf,
    SkillBuilder,
    World,
    fake_score,
    request,
    spec,
    training_data,
)

MONDAY = 1_709_521_200.0
"""2024-03-04 03:00 UTC."""


# -- triggers ----------------------------------------------------------------------------------------------------------


def asked(number: int, at: float, cause: Any = "drift") -> Asked:
    return Asked(f"r{number}", cause, at)


def test_machines_heed_the_cooldown_and_people_do_not() -> None:
    state = consider(TaskState("fraud"), asked(1, NOW), 3600).state
    state = msgspec.structs.replace(state, pending=None)
    answers = [
        consider(state, asked(2, NOW + 3599, "drift"), 3600).answer,
        consider(state, asked(3, NOW + 3599, "volume"), 3600).answer,
        consider(state, asked(4, NOW + 3600, "drift"), 3600).answer,
        consider(state, asked(5, NOW + 1, "manual"), 3600).answer,
        consider(state, asked(6, NOW + 1, "schedule"), 3600).answer,
    ]
    assert answers == ["too soon", "too soon", "accepted", "accepted", "accepted"]
    said = consider(state, asked(2, NOW + 60, "drift"), 3600).words
    assert said == "drift asks 1m after the last request that was accepted; the cooldown is 1h"


def test_a_request_that_is_repeated_is_known_also_when_it_was_refused() -> None:
    state = consider(TaskState("fraud"), asked(1, NOW), 3600).state
    state = consider(state, asked(2, NOW + 1), 3600).state
    assert consider(state, asked(1, NOW), 3600).answer == "repeat"
    assert consider(state, asked(2, NOW + 1), 3600).answer == "repeat"


def test_the_memory_of_requests_is_bounded() -> None:
    state = TaskState("fraud")
    for number in range(1000):
        state = consider(state, asked(number, NOW, "manual"), 0).state
    assert len(state.seen) == 256
    assert len(encode(state)) < 10_000


def test_the_schedule_asks_once_a_turn_and_once_for_all_turns_it_missed() -> None:
    weekly = "0 3 * * 1"
    assert due(weekly, MONDAY - 1, MONDAY - 0.5) is None
    assert due(weekly, MONDAY - 1, MONDAY) == MONDAY
    assert due(weekly, MONDAY, MONDAY + 6.9 * DAY) is None
    assert due(weekly, MONDAY, MONDAY + 30 * DAY) == MONDAY + 28 * DAY
    state, first = scheduled(TaskState("fraud"), weekly, MONDAY + 60)
    assert first is None, "a task that is seen for the first time waits for its turn"
    state, nothing = scheduled(state, weekly, MONDAY + DAY)
    state, turn = scheduled(state, weekly, MONDAY + 7 * DAY + 5)
    assert nothing is None
    assert turn is not None
    assert (turn.cause, turn.requested_at) == ("schedule", MONDAY + 7 * DAY)
    _, other = scheduled(TaskState("fraud", scheduled_at=MONDAY + DAY), weekly, MONDAY + 7 * DAY + 9)
    assert other is not None
    assert other.request_id == turn.request_id, "two trainers that look at about the same time ask once"


@pytest.mark.parametrize("schedule", ["daily", "0 3 * *", "0 25 * * *", "* * * * * *", ""])
def test_a_schedule_that_is_none_is_refused(schedule: str) -> None:
    with pytest.raises(TaskError, match="no cron expression"):
        check_schedule(schedule)
    check_schedule("*/15 2-4 * * mon-fri")


def test_a_schedule_leads_to_a_job(tmp_path: Path) -> None:
    world = World(tmp_path, task=spec('schedule = "0 3 * * *"\n'))
    world.clock.now = MONDAY - 100
    assert world.trainer.tick() is None
    world.clock.now = MONDAY + 1
    found = world.trainer.tick()
    assert found is not None
    assert found.answer == "accepted"
    assert world.trainer.tick() is None
    world.job.work()
    assert world.shelf.shadows == 1


# -- journal -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "directory", "object store"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    where = str(tmp_path) if request.param == "directory" else f"memory://j{os.urandom(4).hex()}"
    return FilesJournal(open_files(where))


def test_of_many_writers_of_one_entry_one_succeeds(journal: Journal) -> None:
    assert journal.newest("fraud") is None
    for number in range(1, 6):
        won: list[int] = []
        barrier = threading.Barrier(4)

        def write(who: int, number: int = number, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if journal.append("fraud", number, b"%d" % who):
                won.append(who)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert journal.newest("fraud") == (number, b"%d" % won[0])
    assert journal.newest("churn") is None


def test_old_entries_go_and_a_writer_from_long_ago_does_not_get_in(tmp_path: Path) -> None:
    journal = FilesJournal(open_files(str(tmp_path)))
    for number in range(1, 121):
        assert journal.append("fraud", number, b"x")
    assert len(list((tmp_path / "fraud" / "trainer").iterdir())) <= 51
    assert not journal.append("fraud", 12, b"late"), "its place is free, and its time is over"
    assert journal.newest("fraud") == (120, b"x")


def test_a_journal_that_cannot_be_read_is_said_and_not_overwritten() -> None:
    journal = MemoryJournal()
    journal.append("fraud", 1, b"{broken")
    with pytest.raises(StateError, match="not a trainer's journal"):
        decode(b"{broken", "entry 1")
    with pytest.raises(StateError, match="format 9"):
        decode(encode(TaskState("fraud", v=9)), "entry 1")


# -- processes ---------------------------------------------------------------------------------------------------------


def build(tmp_path: Path, mood: str, skill: float = 2.0) -> BuildWork:
    put(tmp_path / "data.pkl", training_data(spec(), NOW, 200))
    return BuildWork(SkillBuilder(skill, mood=mood), FullSpec(), tmp_path / "data.pkl", 1, None, tmp_path / "out.built")


def silent(what: str, done: int, of: int) -> None:
    pass


def test_a_training_in_a_process_of_its_own_gives_the_same_as_here(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    SubprocessRunner().run(
        build(tmp_path, "well"), tmp_path / "apart", lambda: False, lambda *a: told.append(a)
    )  # fmt: skip
    apart = get(tmp_path / "out.built")
    InlineRunner().run(build(tmp_path, "well"), tmp_path / "here", lambda: False, silent)
    assert apart == get(tmp_path / "out.built")
    assert told == [("trees", 1, 1)]


def test_a_training_that_is_killed_does_not_take_the_trainer_with_it(tmp_path: Path) -> None:
    with pytest.raises(WorkDiedError, match="was killed: see whether the machine ran out of memory"):
        SubprocessRunner().run(build(tmp_path, "killed"), tmp_path / "k", lambda: False, silent)


def test_what_a_training_says_of_its_failure_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="labels are all alike"):
        SubprocessRunner().run(build(tmp_path, "badly"), tmp_path / "b", lambda: False, silent)


def test_a_training_that_is_stopped_writes_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with pytest.raises(TrainingStoppedError, match="stopped at a checkpoint"):
        SubprocessRunner().run(build(tmp_path, "forever"), folder, lambda: (folder / "began").exists(), silent)
    assert (folder / "checkpoint").exists()


def test_a_killed_training_fails_its_job_and_a_stopped_one_goes_on_later(tmp_path: Path) -> None:
    class Dies(InlineRunner):
        def run(self, *args: Any) -> Any:
            if isinstance(args[0], BuildWork):
                raise WorkDiedError("its process was killed")
            return super().run(*args)

    world = World(tmp_path, runner=Dies())
    world.ask(1)
    world.job.work()
    assert world.stages() == ["failed"]
    assert "was killed" in world.trainer.state.ended[-1].reason

    class Stops(InlineRunner):
        def run(self, *args: Any) -> Any:
            if isinstance(args[0], BuildWork) and not world.stop:
                world.stop = True
                raise TrainingStoppedError("at a checkpoint")
            return super().run(*args)

    world.builders["trees"], world.runner = SkillBuilder(2.0), Stops()
    world.restart()
    world.ask(2, NOW + DAY)
    with pytest.raises(TrainingStoppedError):
        world.job.work()
    job = world.trainer.state.job
    assert job is not None
    assert (job.stage, job.tries) == ("data", 0)
    world.runner, world.stop = InlineRunner(), False
    world.restart()
    world.job.work()
    assert world.shelf.shadows == 1
    assert world.trainer.state.jobs == 2


def test_a_stage_that_never_ends_is_given_up(tmp_path: Path) -> None:
    class Away(InlineRunner):
        def run(self, *args: Any) -> Any:
            raise OSError("the disk is away")

    world = World(tmp_path, runner=Away())
    world.ask(1)
    for _ in range(4):
        world.job.work()
    assert world.stages() == ["failed"]
    assert "begun 3 times" in world.trainer.state.ended[-1].reason


# -- live rows and phases ----------------------------------------------------------------------------------------------

FEATURES = ("amount", "full.logit", "full.known", "full.version", "full.provider", "full.shadow_logit",
            "full.shadow_version")  # fmt: skip


def examples(n: int) -> ExampleBatch:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (n, len(FEATURES)))
    x[:, [3, 6]] = (4.0, 5.0)
    return ExampleBatch(
        [f"e{k}" for k in range(n)], np.full(n, NOW), x, np.full(n, 0.5), rng.random(n) < 0.3, np.ones(n),
        np.zeros(n, np.bool_), entity_id=[f"u{k % 7}" if k % 5 else None for k in range(n)],
    )  # fmt: skip


def test_rows_of_a_pipeline_and_of_its_records_are_the_same_whatever_else_they_hold() -> None:
    batch = examples(50)
    records = encode_examples(batch, FEATURES, "fraud")
    others = [b"not json", b'{"task":"fraud"}', records[0].replace(b'"fraud"', b'"churn"')]
    here, read = LiveRows.of(batch, FEATURES), decode_live([*others, *records], "fraud")
    for name in LiveRows.__slots__:
        np.testing.assert_array_equal(getattr(here, name), getattr(read, name))
    assert here.entity[:3] == ["e0", "u1", "u2"], "where it is not known whose event it is, it stands for itself"
    with pytest.raises(TaskError, match=r"needs \[full\]"):
        LiveRows.of(batch, ("amount",) * len(FEATURES))


@pytest.mark.parametrize("cuts", [[7], [1, 2, 3, 190], [100, 100, 30]])
def test_a_phase_does_not_depend_on_how_the_log_is_cut_nor_on_snapshots(tmp_path: Path, cuts: list[int]) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    world.shelf.models.append(("next", Built("trees", b"1.5", ("truth",))))
    world.shelf.shadows = 2
    rows, rules = world.rows(450), PromotionRules(200, "average_precision", 0.9, 1)
    start = PhaseState("shadow", serving=1, other=2, since=NOW)
    whole = PromotionPhase(rules, start).update(rows)
    assert whole is not None
    phase, at, found = PromotionPhase(rules, start), 0, None
    for k in range(1000):
        n = cuts[k % len(cuts)]
        part = LiveRows(*(getattr(rows, name)[at : at + n] for name in LiveRows.__slots__))
        found = phase.update(part)
        if found is not None:
            break
        at += n
        state = msgspec.json.decode(msgspec.json.encode(phase.snapshot()), type=PhaseState)
        phase = PromotionPhase(rules, state)
    assert found is not None
    assert found._replace(rows=at + found.rows) == whole


def test_a_shadow_that_workers_refuse_is_retired_and_too_few_positives_are_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    rules = PromotionRules(100, "average_precision", 0.9, 1)
    never = PromotionPhase(rules, PhaseState("shadow", serving=1, other=9, since=world.clock.now)).update(
        world.rows(1500)
    )
    assert never is not None
    assert (never.decision, never.rows) == ("retire", 1000)
    assert "refused" in never.reason
    world.shelf.models.append(("next", Built("trees", b"3.0", ("truth",))))
    world.shelf.shadows = 2
    phase = PromotionPhase(rules, PhaseState("shadow", serving=1, other=2, since=world.clock.now))
    assert phase.update(world.rows(300, rate=0.01)) is None
    decided = phase.update(world.rows(500, rate=0.2))
    assert decided is not None
    assert decided.decision == "promote"


def test_a_busy_entity_is_one_witness_however_many_events_it_has() -> None:
    """Twenty copies of each event of an entity tell nothing new; as events of their own they would decide."""
    rng, copies = np.random.default_rng(5), 20
    y = np.repeat(rng.random(60) < 0.4, copies)
    logit, other = (np.repeat(gain * (y[::copies]) + rng.normal(0, 1, 60), copies) for gain in (1.3, 1.0))
    n, ids = len(y), [f"e{k}" for k in range(len(y))]
    rules = PromotionRules(n, "roc_auc", 0.9, 1)

    def judged(entity: list[str]) -> tuple[str, float]:
        phase = PromotionPhase(rules, PhaseState("shadow", serving=1, other=2, since=NOW))
        rows = LiveRows(
            ids, entity, np.full(n, NOW), y, np.ones(n), np.zeros(n, np.bool_), logit, np.full(n, 1), other,
            np.full(n, 2),
        )  # fmt: skip
        found = phase.update(rows)
        assert found is not None
        interval = re.search(r"\[([-+.\d]+), ([-+.\d]+)\]", found.reason)
        assert interval is not None
        return found.reason, float(interval[2]) - float(interval[1])

    alone, together = judged(ids), judged([f"u{k // copies}" for k in range(n)])
    assert "worse: roc auc" in alone[0]
    assert "undecided: roc auc" in together[0]
    assert together[1] > 2 * alone[1], "though it has seen all rows, and the other made up its mind at a fifth of them"


def test_a_document_of_before_entities_were_noted_goes_on() -> None:
    rules = PromotionRules(40, "average_precision", 0.9, 1)
    phase = PromotionPhase(rules, PhaseState("shadow", serving=4, other=5, since=NOW))
    phase.update(LiveRows.of(examples(20), FEATURES))
    old = msgspec.structs.replace(phase.snapshot(), entity=())
    again = PromotionPhase(rules, old)
    again.update(LiveRows.of(examples(30), FEATURES))
    held = again.snapshot()
    assert held.entity[:20] == held.event_id[:20]
    assert held.entity[21:23] == ("u0", "u1")


def test_a_corrected_label_counts_as_corrected(tmp_path: Path) -> None:
    rules = PromotionRules(40, "average_precision", 0.9, 1)
    phase = PromotionPhase(rules, PhaseState("shadow", serving=4, other=5, since=NOW))
    rows = LiveRows.of(examples(30), FEATURES)
    phase.update(rows)
    phase.update(LiveRows(**{name: getattr(rows, name)[:5] for name in LiveRows.__slots__} | {"y": ~rows.y[:5]}))
    held = phase.snapshot()
    assert len(phase) == 30
    assert held.y[:5] == tuple(~rows.y[:5])


# -- registry ----------------------------------------------------------------------------------------------------------


def tiny(weight: float) -> Built:
    import onnx.parser

    graph = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[n, 1] x) => (float[n] logit) <int64[1] one = {{1}}, float w = {{{weight}}}>
    {{ s = ReduceSum <keepdims = 0> (x, one)
       logit = Mul(s, w) }}""")
    return Built("trees", graph.SerializeToString(), ("truth",))


def test_the_shelf_registers_once_and_moves_stages_once(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    shelf = RegistryShelf(registry)
    origin = Origin(NOW - 100, NOW - 1, NOW, 10, 10, 2, label_delay=7 * 86_400.0)
    jobs = [Job(f"fraud-{n}", asked(n, NOW), NOW, NOW) for n in (1, 2)]
    versions = [shelf.register("fraud", tiny(job + 1.0), jobs[job], origin, NOW) for job in (0, 0, 1, 1)]
    assert versions == [1, 1, 2, 2]
    assert b"fraud-1" in registry.load("fraud", 1).files[JOB_FILE]
    assert registry.manifest("fraud", 1).label_delay == 7 * 86_400.0

    def tell(action: Any, version: int) -> tuple[int, int | None]:
        told = [shelf.tell("fraud", Effect(action, version, NOW, {"a": 1.0}), "why") for _ in range(2)]
        assert told[0] == told[1]
        assert told[0].digest == registry.manifest("fraud", version).digest
        return shelf.champion("fraud"), registry.shadow("fraud")

    assert shelf.champion("fraud") == 0
    assert tell("shadow", 1) == (0, 1)
    assert tell("promote", 1) == (1, None)
    assert tell("shadow", 2) == (1, 2)
    assert tell("retire", 1) == (1, 2), "what serves is never retired"
    assert tell("promote", 2) == (2, None)
    assert tell("rollback", 1) == (1, None)
    data = training_data(spec(), NOW, 50)
    rows = np.array([3, 3, 7])
    np.testing.assert_allclose(score(shelf.built("fraud", 2), data, rows), 2 * data.history.x[rows, 0])


def in_half(built: Built, data: TrainingSet, rows: IntVector, y: BoolVector) -> Built:
    cost = Variant(precision="float16", measured={"max_logit_change": 0.5})
    return replace(
        built, files={**built.files, "model.float16.onnx": built.onnx}, variants={"model.float16.onnx": cost}
    )


@pytest.mark.parametrize(("weight", "kept"), [(1.0, ["model.float16.onnx"]), (-1.0, [])])
def test_what_passes_is_registered_with_its_variants_and_their_cost(
    tmp_path: Path, weight: float, kept: list[str]
) -> None:
    path, data = tmp_path / "trees.built", tmp_path / "data.pkl"
    put(path, tiny(weight))
    put(data, training_data(spec(), NOW))
    work = JudgeWork({"trees": path}, None, data, score, "average_precision", 0.9, 1, in_half)
    judged = work(tmp_path, lambda: False, lambda *_: None)
    assert judged.verdict.passed == bool(kept)
    assert not any("logit" in name for name in judged.metrics), "metrics are those of the graph that serves"
    registry = Registry(str(tmp_path / "registry"))
    job, origin = Job("fraud-1", asked(1, NOW), NOW, NOW), Origin(NOW - 100, NOW - 1, NOW, 10, 10, 2)
    RegistryShelf(registry).register("fraud", get(path), job, origin, NOW)
    variants = registry.verify("fraud", 1).manifest.variants
    assert list(variants) == kept
    assert all(variant.measured == {"max_logit_change": 0.5} for variant in variants.values())


def test_a_version_that_a_person_made_serve_ends_what_was_judged(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    world.builders["trees"] = SkillBuilder(2.0)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    world.shelf.models.append(("by hand", Built("trees", b"1.0", ("truth",))))
    world.shelf.serves = 3
    world.trainer.look()
    world.trainer.tell()
    assert world.stages()[-1] == "retired"
    assert "by hand" in world.trainer.state.ended[-1].reason
    assert (world.shelf.serves, world.shelf.shadows) == (3, 0)


# -- benches and commands ----------------------------------------------------------------------------------------------


def bench(world: World, shelf: Any = None) -> Bench:
    shop = Workshop(training_data, dict(world.builders), None, fake_score, world.runner, world.tmp / "work")
    return Bench(
        world.task, world.journal, shelf or world.shelf, shop, world.updates.append,
        owner="bench", lease_s=30.0, clock=world.clock,
    )  # fmt: skip


def test_a_bench_takes_a_task_when_there_is_something_to_do_and_gives_it_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.trainer.desk.release()
    ours = bench(world)
    ours.beat()
    assert not ours.held
    ours.trainer.ask(request(1))
    ours.beat()
    assert (ours.held, ours.has_work, ours.state.owner) == (True, True, "bench")
    ours.work()
    assert not ours.has_work, "it waits for labels"
    world.trainer.desk.reload()
    assert not world.trainer.desk.claim()
    for _ in range(10):
        ours.give(world.rows(20), world.events)
    ours.beat()
    assert world.shelf.serves == 1
    assert (ours.held, ours.state.owner) == (False, "")


def test_a_bench_outlives_a_registry_that_is_away(tmp_path: Path) -> None:
    class Away(FakeShelf):
        away = False

        def champion(self, task: str) -> int:
            if self.away:
                raise RegistryError("s3://models: no answer")
            return super().champion(task)

        def tell(self, *about: Any) -> Any:
            if self.away:
                raise RegistryError("s3://models: no answer")
            return super().tell(*about)

    world, shelf = World(tmp_path), Away()
    world.trainer.desk.release()
    world.shelf = shelf
    ours = bench(world)
    ours.trainer.ask(request(1))
    ours.beat()
    ours.work()
    rows = world.rows(200)
    shelf.away = True
    ours.give(rows, world.events)
    ours.beat()
    assert [effect.action for effect in ours.state.effects] == ["promote"], "decided, and still to be told"
    shelf.away = False
    ours.beat()
    ours.work()
    assert shelf.told == [("shadow", 1), ("promote", 1)]


@pytest.mark.parametrize("command", [trainer_command, retrain_command])
def test_commands_explain_themselves_with_examples(command: Any) -> None:
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "For example:" in shown.output


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_text(SPEC.partition("[full]")[0])
    app = typer.Typer()
    app.command()(trainer_command)
    wrong = CliRunner().invoke(app, [str(tmp_path / "plain.toml")])
    assert isinstance(wrong.exception, UsageError)
    assert "add a [full] table" in str(wrong.exception)
    with pytest.raises(TaskError, match="no cron expression"):
        World(tmp_path, task=spec('schedule = "sometimes"\n'))
    with pytest.raises(ValidationError, match="at least 3 times heartbeat_s"):
        TrainerSettings(heartbeat_s=20)
