from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from tests.models.graphs import candidate
from weir.models.errors import ModelError
from weir.models.manifest import DataRange
from weir.models.registry.registry import Registry
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate
from weir.online.errors import WeirError
from weir.streams.checks import untold_moves
from weir.streams.cli.models import model_moves
from weir.streams.cli.models.models import models_app
from weir.streams.config.settings import ModelSettings, load_settings
from weir.streams.errors import BrokerError, UsageError

BEFORE = 1.7e9


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    registry = Registry("weir-models")
    for seed in range(3):
        built = replace(candidate(seed), inputs=("amount", "gap", "count" if seed < 2 else "visits"))
        data = DataRange(start=BEFORE, end=BEFORE + 86_400 * (seed + 1), cutoff=BEFORE + 9e5, labels=100 + seed)
        registry.register("fraud", built, data=data, created_at=BEFORE + seed, parent=seed or None)
    registry.set_stage("fraud", 1, "champion", at=BEFORE, why="the first")
    return registry


def weir(*args: str, status: int = 0) -> tuple[str, str]:
    """What ``weir models ARGS`` prints: results and notes."""
    done = CliRunner().invoke(models_app, list(args), catch_exceptions=False)
    assert done.exit_code == status, done.stderr
    return done.stdout, done.stderr


class Brokers:
    """What was published, by brokers that can be away."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, ModelUpdate]] = []
        self.away = self.lost = False

    @contextmanager
    def producer(self, settings: Any, role: str) -> Iterator[Brokers]:
        if self.away:
            raise BrokerError("no broker at kafka:9092")
        yield self

    def send(self, topic: str, value: bytes, key: bytes) -> Brokers:
        self.sent.append((topic, key, ModelUpdate.model_validate_json(value)))
        return self

    def present(self, topic: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(value=encode_model(update)) for name, _, update in self.sent if name == topic]

    def get(self) -> None:
        if self.lost:
            self.sent.pop()
            raise BrokerError("the record was not acknowledged")


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    made = Brokers()
    monkeypatch.setattr(model_moves, "producer", made.producer)
    monkeypatch.setattr(untold_moves, "consumer", made.producer)
    monkeypatch.setattr(untold_moves, "read_present", lambda _, topic, __: made.present(topic))
    return made


def test_list_shows_every_version_with_its_stage(registry: Registry) -> None:
    shown, notes = weir("list")
    assert [line.split()[:4] for line in shown.splitlines()[1:]] == [
        ["fraud", "v1", "champion", "encoder"], ["fraud", "v2", "candidate", "encoder"],
        ["fraud", "v3", "candidate", "encoder"],
    ]  # fmt: skip
    assert "0.5000" in shown.splitlines()[1]
    assert f"3 versions in {registry.url}" in notes.replace("\n", "")
    documents = orjson.loads(weir("list", "fraud", "--json")[0])
    assert [d["stage"] for d in documents] == ["champion", "candidate", "candidate"]
    assert documents[0]["digest"] == registry.manifest("fraud", 1).digest


def test_list_goes_on_behind_a_broken_version(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "weir-models" / "fraud" / "2" / "manifest.json").write_text("{}")
    shown, notes = weir("list", status=1)
    assert "v3" in shown
    assert "unusable:" in notes
    assert "not a manifest" in notes.replace("\n", " ")


def test_list_goes_on_behind_a_task_whose_stages_are_damaged(registry: Registry, tmp_path: Path) -> None:
    data = DataRange(start=BEFORE, end=BEFORE + 86_400, cutoff=BEFORE + 9e5, labels=100)
    for task in ("churn", "zeal"):
        registry.register(task, candidate(1), data=data, created_at=BEFORE)
    (tmp_path / "weir-models" / "fraud" / "stages" / "00000001.json").write_text("{")
    shown, notes = weir("list", status=1)
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["churn", "v1"], ["zeal", "v1"]]
    assert re.search("unusable: task fraud: .*fraud/stages/00000001.json: not a stage entry", notes)
    documents = orjson.loads(weir("list", "--json", status=1)[0])
    assert [document["task"] for document in documents] == ["churn", "zeal"]


def test_show_is_of_the_champion_unless_told(registry: Registry) -> None:
    shown, _ = weir("show", "fraud")
    assert "fraud v1, champion, encoder" in shown
    assert registry.manifest("fraud", 1).digest in shown
    assert "100 labels" in shown
    assert re.search(r"1\s+2023-11-14 22:13:20\s+promote\s+v1\s+v1\s+-\s+the first", shown)
    assert "fraud v3, candidate" in weir("show", "fraud", "v3")[0]
    assert orjson.loads(weir("show", "fraud", "2", "--json")[0])["version"] == 2


def test_promote_and_rollback_move_the_champion_and_tell_the_workers(registry: Registry, brokers: Brokers) -> None:
    shown, notes = weir("promote", "fraud", "2", "--bootstrap", "kafka:9092", "--why", "better")
    assert re.search(r"champion\s+v1\s+v2", shown)
    assert "published promote of fraud v2" in notes
    weir("promote", "fraud", "3", "--to", "shadow", "--publish")
    weir("rollback", "fraud", "--publish", "--why", "worse")
    assert (registry.champion("fraud"), registry.stages("fraud").shadow) == (1, 3)
    assert [(topic, key, u.action, u.version) for topic, key, u in brokers.sent] == [
        ("model-updates", b"fraud", "promote", "2"), ("model-updates", b"fraud", "shadow", "3"),
        ("model-updates", b"fraud", "rollback", "1"),
    ]  # fmt: skip
    assert brokers.sent[0][2].digest == registry.manifest("fraud", 2).digest
    assert [entry.why for entry in registry.history("fraud")] == ["the first", "better", "", "worse"]


def test_a_retired_version_is_not_returned_to_but_an_older_one_that_is_named(
    registry: Registry, brokers: Brokers
) -> None:
    weir("promote", "fraud", "2"), weir("promote", "fraud", "3"), weir("promote", "fraud", "2", "--to", "archived")
    with pytest.raises(ModelError, match="v2 was retired since it served; name one that can be rolled back to: v1, or"):
        weir("rollback", "fraud", "--publish")
    assert brokers.sent == []
    weir("rollback", "fraud", "--to", "1", "--publish")
    assert registry.champion("fraud") == 1
    assert [(u.action, u.version) for _, _, u in brokers.sent] == [("rollback", "1")]


def test_without_brokers_in_the_settings_nothing_is_published(
    registry: Registry, brokers: Brokers, tmp_path: Path
) -> None:
    _, notes = weir("promote", "fraud", "2")
    assert "no [kafka] in the settings: workers are not told" in notes
    (tmp_path / "weir.toml").write_text('[kafka]\nbootstrap = "kafka:9092"')
    weir("promote", "fraud", "3", "--no-publish")
    assert brokers.sent == []
    weir("rollback", "fraud")
    assert [u.action for _, _, u in brokers.sent] == ["rollback"]


def test_brokers_that_are_away_change_nothing_and_what_was_not_sent_can_be_sent_again(
    registry: Registry, brokers: Brokers
) -> None:
    brokers.away = True
    with pytest.raises(BrokerError):
        weir("promote", "fraud", "2", "--publish")
    assert registry.champion("fraud") == 1
    brokers.away, brokers.lost = False, True
    with pytest.raises(BrokerError):
        weir("promote", "fraud", "2", "--publish")
    assert registry.champion("fraud") == 2
    brokers.lost = False
    _, notes = weir("promote", "fraud", "2", "--publish")
    assert "nothing changed: it has that stage already; workers were told again" in notes
    assert [(u.action, u.version) for _, _, u in brokers.sent] == [("promote", "2")]
    assert weir("promote", "fraud", "2", "--no-publish")[1].strip().endswith("it has that stage already")


@pytest.mark.parametrize(
    "move",
    ["promote fraud 3", "promote fraud 3 --to shadow", "promote fraud 1 --to archived", "rollback fraud"],
)
def test_a_move_that_was_killed_before_it_was_told_is_told_by_promoting_again(
    move: str, registry: Registry, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers then have what they would have had: each move is killed right behind the registry's entry."""
    weir("promote", "fraud", "2", "--publish")

    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(model_moves, "_told", killed)
        weir(*move.split(), "--publish", status=137)
    moved = registry.history("fraud")[-1]
    assert [update.action for _, _, update in brokers.sent] == ["promote"]
    again = ["promote", "fraud", str(moved.version), *move.split()[3:]]
    assert "not told" not in weir("list")[1], "no brokers are named"
    Path("weir.toml").write_text('[kafka]\nbootstrap = "kafka:9092"')
    listed = weir("list")
    if move != "promote fraud 1 --to archived":  # neither serves nor shadows, by both
        assert f"tell the workers: weir models {' '.join(again)}" in " ".join(listed[1].split())
    brokers.away = True
    assert "whether the workers were told of the last moves is not known: no broker at kafka:9092" in weir("list")[1]
    assert weir("list")[0] == listed[0]
    brokers.away = False
    assert "workers were told again" in weir(*again, "--publish")[1]
    assert registry.history("fraud")[-1] == moved
    assert (brokers.sent[-1][2].action, brokers.sent[-1][2].version) == (moved.action, str(moved.version))
    assert "tell the workers" not in weir("list")[1]


def test_a_damaged_version_is_not_promoted(registry: Registry, brokers: Brokers, tmp_path: Path) -> None:
    graph = tmp_path / "weir-models" / "fraud" / "2" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(WeirError, match=r"model\.onnx is truncated"):
        weir("promote", "fraud", "2", "--publish")
    assert (registry.champion("fraud"), brokers.sent) == (1, [])


def test_diff_says_what_changed(registry: Registry) -> None:
    shown, _ = weir("diff", "fraud", "champion", "3")
    found = {line.split()[0]: line for line in shown.splitlines()[1:]}
    assert re.search(r"0\.5\s+0\.52 \(\+0\.02\)", found["metrics.average_precision"])
    assert re.search(r"3: -count\s+3: \+visits", found["inputs"])
    assert re.search(r"100\s+102", found["data.labels"])
    assert "files.model.onnx" in found
    assert "kind" not in found
    assert orjson.loads(weir("diff", "fraud", "1", "1", "--json")[0]) == []


def test_verify_finds_damage(registry: Registry, tmp_path: Path) -> None:
    assert weir("verify")[0].count("ok") == 4
    weights = tmp_path / "weir-models" / "fraud" / "2" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    done = CliRunner().invoke(models_app, ["verify"])
    assert done.exit_code == 1
    assert "weights.safetensors is corrupt or exchanged" in done.stdout
    assert done.stdout.count("ok") == 3
    assert "3 versions and logs of stages are whole, 1 are not" in done.stderr


def test_verify_reads_the_moves_of_stages(registry: Registry, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        registry.set_stage("fraud", version, "champion", at=1.0)
    task = tmp_path / "weir-models" / "fraud"
    first = task / "stages" / "00000001.json"
    written = first.read_bytes()

    def told() -> str:
        done = CliRunner().invoke(models_app, ["verify"])
        assert done.exit_code == 1
        return " ".join(done.stdout.split())

    first.write_bytes(written[:40])  # an old one: `weir models list` reads the newest alone
    assert "00000001.json: not a stage entry" in told()
    first.unlink()
    assert "00000001.json: missing or exchanged, entry 2 is there; restore it" in told()
    first.write_bytes(written)
    assert "ok" in weir("verify")[0]
    (task / "3").rename(tmp_path / "away")
    assert "no such version; usable are: v1, v2" in told()


def test_gc_clears_away_what_was_not_finished(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "weir-models" / "fraud" / "3" / "manifest.json").unlink()
    assert weir("gc", "fraud", "--older-than", "9999d")[0] == ""
    shown, notes = weir("gc")
    assert shown == "fraud v3\n"
    assert "1 unfinished versions older than 1h" in notes
    assert Registry("weir-models").versions("fraud") == [1, 2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("show", "churn"), r"holds no versions of a task 'churn'; there are: fraud"),
        (("show", "fraud", "shadow"), r"task fraud has no shadow now; versions are: v1, v2, v3"),
        (("show", "fraud", "newest"), r"'newest' is no version; give a number"),
        (("show", "fraud", "9"), r"no such version; usable are: v1, v2, v3"),
        (("promote", "fraud", "2", "--to", "candidate"), r"--to candidate: give one of shadow, champion, archived"),
        (("rollback", "fraud"), r"no champion served before this one"),
        (("list", "--registry", "a-file"), r"a-file is a file; give the directory"),
        (("gc", "--older-than", "soon"), r"--older-than: 'soon' is not a duration"),
        (("list", "--registry", "ftp://host/m"), r"models.registry: give a directory or a URL that starts with"),
    ],
)
def test_mistakes_are_explained(registry: Registry, args: tuple[str, ...], words: str) -> None:
    Path("a-file").touch()
    with pytest.raises(WeirError, match=words):
        weir(*args)


@pytest.mark.parametrize("command", ["list", "show", "promote", "rollback", "diff", "verify", "gc"])
def test_help_has_examples(command: str) -> None:
    assert f"weir models {command}" in weir(command, "--help")[0]


def test_the_registry_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text('[models]\nregistry = "s3://bucket/models"\nprovider = "cuda"\nthreads = 2')
    assert load_settings(path, {}).models == ModelSettings(registry="s3://bucket/models", provider="cuda", threads=2)
    assert load_settings(path, {"WEIR_MODELS__REGISTRY": "/srv/models"}).models.registry == "/srv/models"
    assert load_settings(None, {"WEIR_CONFIG": str(path)}).models.threads == 2
    for wrong, words in (("s3://key:hush@bucket/m", "leave credentials out"), ("s3://", "give a directory or a URL")):
        with pytest.raises(UsageError, match=words) as caught:
            load_settings(path, {"WEIR_MODELS__REGISTRY": wrong})
        assert "hush" not in str(caught.value)
