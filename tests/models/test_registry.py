"""One suite over every storage; then what only a directory can show: many processes, cuts, damage on disk."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.manifest import ArtefactError, DataRange, Variant
from models.quantise import FLOAT16, variants
from models.registry import Registry, RegistryError, StageConflictError, Stages, split_uri
from models.registry.objects import ObjectFiles
from models.registry.stages import move
from models.types import ModelError
from online.accept import accept_records
from online.encode import encode_model
from online.wire import ModelUpdate
from tests.models.graphs import candidate, linear_graph

DATA = DataRange(start=1.0, end=2.0, cutoff=3.0, events=10, labels=5, positives=2)


def register(registry: Registry, task: str = "fraud", seed: int = 0, **more: Any) -> int:
    return registry.register(task, candidate(seed), data=DATA, created_at=1.7e9, **more).version


@pytest.fixture(params=["directory", "file url", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    urls = {"directory": str(tmp_path / "r"), "file url": f"file://{tmp_path}/r", "memory": f"memory://{tmp_path.name}"}
    yield Registry(urls[request.param])
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_what_is_registered_is_loaded(registry: Registry) -> None:
    built = candidate(3)
    manifest = registry.register(
        "fraud", built, data=DATA, created_at=1.7e9, label_delay=86_400.0, metrics={"roc_auc": 0.9}, parent=None
    )
    assert (manifest.version, manifest.opset, manifest.seed) == (1, 18, 3)
    assert manifest.metrics == {"average_precision": 0.53, "roc_auc": 0.9}
    artefact = registry.load("fraud", 1, manifest.digest)
    assert artefact.onnx == built.onnx
    assert artefact.files == {"model.onnx": built.onnx, **built.files}
    assert artefact.manifest == manifest == registry.manifest("fraud", 1) == registry.verify("fraud", 1).manifest
    assert registry.tasks() == ["fraud"]


def test_versions_count_up_for_each_task(registry: Registry) -> None:
    assert registry.versions("fraud") == []
    assert registry.tasks() == []
    assert [register(registry) for _ in range(11)] == list(range(1, 12))
    assert register(registry, "churn") == 1
    assert registry.versions("fraud") == list(range(1, 12)), "in the order of numbers, not of names"
    assert registry.tasks() == ["churn", "fraud"]


def test_another_opening_sees_what_this_one_wrote(registry: Registry) -> None:
    register(registry)
    registry.set_stage("fraud", 1, "champion", at=1.0)
    other = Registry(registry.url)
    assert (other.versions("fraud"), other.champion("fraud")) == ([1], 1)
    uri, task, version = split_uri(registry.uri("fraud", 1))
    assert Registry(uri).load(task, version).manifest == registry.manifest("fraud", 1)


def test_another_digest_is_refused(registry: Registry) -> None:
    register(registry), register(registry, seed=1)
    with pytest.raises(ArtefactError, match=r"fraud v1: its digest is sha256:\w+, asked for was sha256:\w+"):
        registry.load("fraud", 1, registry.manifest("fraud", 2).digest)


def test_what_is_not_there_is_said(registry: Registry) -> None:
    register(registry), register(registry)
    for version in (3, 0, -1):
        with pytest.raises(ArtefactError, match=r"no such version; usable are: v1, v2"):
            registry.load("fraud", version)
    with pytest.raises(ModelError, match="usable are: none"):
        registry.set_stage("churn", 1, "champion", at=1.0)
    assert registry.stages("churn") == Stages()


def test_a_candidate_that_cannot_be_served_takes_no_number(registry: Registry) -> None:
    good = candidate()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"onnx": good.onnx[:-20]}, "corrupt or truncated"),
        ({"state": 9}, "has 4 floats of state, its description says 9"),
        ({"inputs": ("a", "b")}, "has 3 inputs, its description says 2"),
        ({"onnx": linear_graph(np.ones(3, np.float32))}, "has 0 floats of state, its description says 4"),
        ({"metrics": {"roc_auc": float("nan")}}, "cannot be registered: metrics.roc_auc: input should be a finite"),
        ({"files": {"../up": b""}}, "cannot be registered: files"),
        ({"files": {"model.onnx": b""}}, "the registry's own names"),
    ]
    for fields, words in wrong:
        with pytest.raises(ModelError, match=words):
            registry.register("fraud", replace(good, **fields), data=DATA, created_at=1.0)
    promised = replace(good, variants={"model.int8.onnx": Variant(precision="int8")})
    with pytest.raises(ModelError, match=r"variant model\.int8\.onnx is not among the files"):
        registry.register("fraud", promised, data=DATA, created_at=1.0)
    with pytest.raises(ModelError, match="task: string should match pattern"):
        register(registry, "../fraud")
    assert register(registry) == 1


def test_variants_are_kept_with_what_they_cost(registry: Registry) -> None:
    built = candidate()
    half = variants(built.onnx)[FLOAT16]
    said = {FLOAT16: Variant(precision="float16", measured={"average_precision_loss": 0.001})}
    made = replace(built, files={**built.files, FLOAT16: half}, variants=said)
    registry.register("fraud", made, data=DATA, created_at=1.0)
    assert registry.manifest("fraud", 1).variants == said
    assert registry.verify("fraud", 1).files[FLOAT16] == half
    flat = replace(made, files={FLOAT16: linear_graph(np.ones(3, np.float32))})
    with pytest.raises(ModelError, match=r"model\.float16\.onnx has 0 floats of state"):
        registry.register("fraud", flat, data=DATA, created_at=1.0)


# --- stages


def test_the_life_of_two_versions(registry: Registry) -> None:
    register(registry), register(registry)
    assert registry.stages("fraud").of(1) == "candidate"
    registry.set_stage("fraud", 1, "champion", at=1.0)
    registry.set_stage("fraud", 2, "shadow", at=2.0)
    assert (registry.champion("fraud"), registry.shadow("fraud")) == (1, 2)
    stages = registry.set_stage("fraud", 2, "champion", at=3.0, why="better")
    assert (stages.champion, stages.shadow, stages.of(1)) == (2, None, "archived")
    stages = registry.rollback("fraud", at=4.0, why="worse")
    assert (stages.champion, stages.of(2), stages) == (1, "archived", registry.stages("fraud"))
    assert [(e.action, e.version, e.at, e.why) for e in registry.history("fraud")] == [
        ("promote", 1, 1.0, ""), ("shadow", 2, 2.0, ""), ("promote", 2, 3.0, "better"), ("rollback", 1, 4.0, "worse"),
    ]  # fmt: skip


def test_a_rollback_goes_back_champion_by_champion(registry: Registry) -> None:
    for version in (1, 2, 3):
        assert register(registry) == version
        registry.set_stage("fraud", version, "champion", at=1.0)
    assert registry.rollback("fraud", at=2.0).champion == 2
    assert registry.rollback("fraud", at=3.0).champion == 1
    with pytest.raises(ModelError, match="fraud: no champion served before this one; promote a version instead"):
        registry.rollback("fraud", at=4.0)
    assert registry.set_stage("fraud", 3, "champion", at=5.0).champion == 3, "an archived one may serve again"


def test_a_stage_that_is_there_already_makes_no_entry(registry: Registry) -> None:
    register(registry)
    first = registry.set_stage("fraud", 1, "champion", at=1.0)
    assert registry.set_stage("fraud", 1, "champion", at=2.0) == first
    assert len(registry.history("fraud")) == 1


def test_retiring_leaves_nothing_behind(registry: Registry) -> None:
    register(registry), register(registry), register(registry)
    registry.set_stage("fraud", 1, "champion", at=1.0)
    registry.set_stage("fraud", 2, "shadow", at=1.0)
    stages = registry.set_stage("fraud", 2, "archived", at=2.0)
    assert (stages.champion, stages.shadow, stages.of(2)) == (1, None, "archived")
    assert registry.set_stage("fraud", 3, "archived", at=2.0).of(3) == "archived", "a candidate that failed its gate"
    assert registry.set_stage("fraud", 1, "archived", at=3.0).champion is None


def test_moves_that_make_no_sense(registry: Registry) -> None:
    register(registry)
    registry.set_stage("fraud", 1, "champion", at=1.0)
    with pytest.raises(ModelError, match="fraud v1 serves; promote or roll back to another version"):
        registry.set_stage("fraud", 1, "shadow", at=2.0)
    with pytest.raises(ModelError, match="no version becomes a candidate again"):
        registry.set_stage("fraud", 1, "candidate", at=2.0)
    with pytest.raises(ModelError, match="v3 did not serve just before"):
        move(registry.stages("fraud"), "rollback", 3, "fraud")


def test_who_decided_on_old_stages_is_told(registry: Registry) -> None:
    register(registry), register(registry)
    seen = registry.stages("fraud").seq
    registry.set_stage("fraud", 1, "champion", at=1.0, expect=seen)
    with pytest.raises(StageConflictError, match=r"the stages changed meanwhile \(entry 1 after 0; champion now 1"):
        registry.set_stage("fraud", 2, "champion", at=1.0, expect=seen)
    assert registry.set_stage("fraud", 2, "champion", at=1.0, expect=seen + 1).champion == 2


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work`` in as many threads, begun at one moment; results or errors."""
    barrier, found = threading.Barrier(count), [None] * count

    def one(i: int) -> None:
        barrier.wait()
        try:
            found[i] = work(i)
        except ModelError as exc:
            found[i] = exc  # type: ignore[call-overload]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_writers_at_one_moment_exactly_one_moves_the_stage(registry: Registry) -> None:
    for _ in range(4):
        register(registry)
    for round_ in range(5):
        seen = registry.stages("fraud")
        versions = [v for v in (1, 2, 3, 4) if v != seen.champion]

        def promote(i: int, versions: list[int] = versions, seq: int = seen.seq) -> Stages:
            return registry.set_stage("fraud", versions[i], "champion", at=1.0, expect=seq)

        found = together(3, promote)
        won = [f for f in found if isinstance(f, Stages)]
        assert len(won) == 1, found
        assert sum(isinstance(f, StageConflictError) for f in found) == 2
        assert registry.stages("fraud") == won[0]
        assert won[0].seq == round_ + 1


def test_writers_at_one_moment_get_a_number_each(registry: Registry) -> None:
    assert sorted(together(6, lambda i: register(registry, seed=i))) == [1, 2, 3, 4, 5, 6]
    assert {registry.load("fraud", v).manifest.seed for v in registry.versions("fraud")} == {0, 1, 2, 3, 4, 5}


def test_the_update_that_tells_workers_is_a_valid_record(registry: Registry) -> None:
    register(registry)
    update = registry.announce("fraud", 1, "promote", at=1.7e9)
    assert (update.version, update.digest) == ("1", registry.manifest("fraud", 1).digest)
    assert split_uri(update.uri) == ("", "fraud", 1), "each process knows the registry's root by its own settings"
    assert not accept_records(ModelUpdate, [encode_model(update)], "reject").rejects


def test_a_uri_that_names_no_version_is_refused() -> None:
    for uri in ("s3://bucket/models/fraud", "3", "/3", "/fraud/0", "/fraud/3", "fraud/0", "s3://b/m/fraud/3/"):
        with pytest.raises(ModelError, match="names no version"):
            split_uri(uri)


# --- cut writes


class CutError(Exception):
    """The writer died."""


def cut_after(registry: Registry, steps: int) -> None:
    """Let the storage of this registry die before its ``steps + 1``-th write."""
    files, left = registry._files, [steps]
    create = files.create

    def dying(path: str, data: bytes) -> None:
        if left[0] == 0:
            raise CutError
        left[0] -= 1
        create(path, data)

    files.create = dying  # type: ignore[method-assign]


def test_a_write_cut_at_any_step_is_never_usable_and_is_cleared_away(registry: Registry) -> None:
    register(registry)
    steps = 4  # claim, two files, manifest
    for cut in range(steps):
        dying = Registry(registry.url)
        cut_after(dying, cut)
        with pytest.raises(CutError):
            register(dying)
        assert registry.versions("fraud") == [1]
    for version in range(2, 1 + steps):  # the first cut came before any number was taken
        with pytest.raises(ArtefactError, match="incomplete, its writer has not finished"):
            registry.load("fraud", version)
        with pytest.raises(ArtefactError, match="incomplete"):
            registry.set_stage("fraud", version, "champion", at=1.0)
    assert registry.gc("fraud", now=1.7e9 + 60) == [], "they may still be at work"
    assert registry.gc("fraud", now=1.7e9 + 3_600) == [2, 3, 4]
    assert registry.gc("fraud", now=1.7e9 + 9_999) == []
    with pytest.raises(ArtefactError, match="abandoned by its writer"):
        registry.load("fraud", 3)
    assert register(registry) == 5, "numbers are not used again"
    assert registry.versions("fraud") == [1, 5]
    assert registry.load("fraud", 1)


def test_a_slow_writer_whose_version_was_cleared_away_fails_instead_of_leaving_half_of_one(registry: Registry) -> None:
    slow = Registry(registry.url)
    files = slow._files
    create = files.create

    def cleared_meanwhile(path: str, data: bytes) -> None:
        if path.endswith("manifest.json"):
            assert registry.gc("fraud", now=1.7e9 + 4_000) == [1]
        create(path, data)

    files.create = cleared_meanwhile  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match="fraud v1 was cleared away as abandoned"):
        register(slow)
    assert registry.versions("fraud") == []


def test_a_move_cut_before_its_entry_changes_nothing(registry: Registry) -> None:
    register(registry)
    dying = Registry(registry.url)
    cut_after(dying, 0)
    with pytest.raises(CutError):
        dying.set_stage("fraud", 1, "champion", at=1.0)
    assert registry.stages("fraud") == Stages()


# --- directories


@pytest.fixture
def directory(tmp_path: Path) -> Registry:
    registry = Registry(str(tmp_path))
    register(registry)
    return registry


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda at: at.write_bytes(at.read_bytes()[:-1]), "model.onnx is truncated: 6"),
        (lambda at: at.write_bytes(at.read_bytes() + b"x"), "model.onnx is too long"),
        (lambda at: at.write_bytes(at.read_bytes()[:-1] + b"\xff"), "model.onnx is corrupt or exchanged: its SHA-256"),
        (lambda at: at.unlink(), "model.onnx is missing"),
        (lambda at: (at.parent / "manifest.json").write_text("{}"), "not a manifest: task: field required"),
        (lambda at: (at.parent / "manifest.json").write_bytes(b""), "not a manifest"),
        (lambda at: at.parent.rename(at.parent.with_name("7")), "no such version; usable are: v7"),
    ],
)
def test_damaged_files_are_refused(directory: Registry, tmp_path: Path, damage: Any, words: str) -> None:
    damage(tmp_path / "fraud" / "1" / "model.onnx")
    for use in (directory.load, directory.verify):
        with pytest.raises(ArtefactError, match=words):
            use("fraud", 1)
    with pytest.raises(ArtefactError):
        directory.set_stage("fraud", 1, "champion", at=1.0)


def test_a_renamed_version_or_task_is_refused(directory: Registry, tmp_path: Path) -> None:
    (tmp_path / "fraud" / "1").rename(tmp_path / "fraud" / "2")
    with pytest.raises(ArtefactError, match="holds fraud v1; it was copied or renamed"):
        directory.load("fraud", 2)
    (tmp_path / "fraud" / "2").rename(tmp_path / "fraud" / "1")
    (tmp_path / "fraud").rename(tmp_path / "churn")
    with pytest.raises(ArtefactError, match="churn/1: holds fraud v1"):
        directory.load("churn", 1)


def test_a_damaged_log_of_stages_is_refused(directory: Registry, tmp_path: Path) -> None:
    directory.set_stage("fraud", 1, "champion", at=1.0)
    (tmp_path / "fraud" / "stages" / "00000001.json").write_text('{"at": 1}')
    with pytest.raises(RegistryError, match=r"fraud/stages/00000001\.json: not a stage entry: action: field required"):
        directory.champion("fraud")


def test_what_a_write_leaves_beside_is_no_version_and_no_entry(directory: Registry, tmp_path: Path) -> None:
    (tmp_path / "fraud" / "stages").mkdir()
    (tmp_path / "fraud" / "stages" / ".00000001.json.ab.tmp").write_bytes(b"{")
    (tmp_path / "fraud" / "1" / ".manifest.json.ab.tmp").write_bytes(b"{")
    (tmp_path / "fraud" / "notes").mkdir()
    assert (directory.versions("fraud"), directory.stages("fraud")) == ([1], Stages())
    assert not [p for p in tmp_path.rglob("*.tmp") if "ab" not in p.name], "a write clears up behind itself"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(RegistryError, match=r"r/fraud/1/claim\.json: Not a directory; check the path"):
        register(Registry(str(tmp_path / "r")))


def _race(url: str, seed: int, start: Any, results: Any) -> None:
    registry = Registry(url)
    start.wait()
    mine = [registry.register("fraud", candidate(seed), data=DATA, created_at=1.0).version for _ in range(5)]
    won = 0
    for version in mine:
        seen = registry.stages("fraud")
        try:
            won += registry.set_stage("fraud", version, "champion", at=1.0, expect=seen.seq).champion == version
        except StageConflictError:
            continue
    results.put((mine, won))


def test_processes_share_no_version_and_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_race, args=(str(tmp_path), i, start, results)) for i in range(2)]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    registry = Registry(str(tmp_path))
    assert sorted(v for mine, _ in found for v in mine) == list(range(1, 11))
    for seed, _ in enumerate(found):
        made = [v for v in registry.versions("fraud") if registry.load("fraud", v).manifest.seed == seed]
        assert len(made) == 5
    history = registry.history("fraud")
    assert [entry.stages.seq for entry in history] == list(range(1, len(history) + 1))
    assert len(history) == sum(won for _, won in found), "who was told that it won has an entry"
    folded = Stages()
    for entry in history:
        folded = move(folded, entry.action, entry.version, "fraud")
        assert folded == entry.stages


# --- object stores


class S3Like(ObjectFiles):
    """Conditional writes that fail as s3fs does, over fsspec's memory."""

    def __init__(self, url: str, honours: bool = True) -> None:
        super().__init__(url)
        self._fs = _Conditional(self._fs, honours)


class _Conditional:
    protocol = ("s3", "s3a")

    def __init__(self, fs: Any, honours: bool) -> None:
        self.fs, self.honours, self.lose_next_answer = fs, honours, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fs, name)

    def pipe_file(self, path: str, data: bytes, mode: str) -> None:
        assert mode == "create"
        if self.honours and self.fs.exists(path):
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")  # without a Condition
        self.fs.pipe_file(path, data)
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")  # of the client's retry


def test_a_conditional_write_that_fails_is_an_existing_file(tmp_path: Path) -> None:
    files = S3Like(f"memory://{tmp_path.name}-s3")
    files.create("a", b"1")
    with pytest.raises(FileExistsError):
        files.create("a", b"2")
    assert files.read("a") == b"1"
    files.check_exclusive()
    assert files.names("") == ["a"]


def test_a_lost_answer_to_a_write_is_not_taken_for_a_lost_race(tmp_path: Path) -> None:
    files = S3Like(f"memory://{tmp_path.name}-s3")
    files._fs.lose_next_answer = True
    files.create("a", b"mine")
    assert files.read("a") == b"mine"


def test_a_store_that_ignores_the_condition_is_found_out(tmp_path: Path) -> None:
    files = S3Like(f"memory://{tmp_path.name}-s3", honours=False)
    with pytest.raises(RegistryError, match="the store overwrites in spite of If-None-Match"):
        files.check_exclusive()
    assert files.names("") == []


@pytest.mark.parametrize(
    ("url", "words"),
    [("ftp://host/models", "no exclusive writes are known for ftp://"), ("", "address is empty"),
     ("s3://bucket/models", "install its package .s3fs, gcsfs, adlfs.")],
)  # fmt: skip
def test_addresses_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        Registry(url)
