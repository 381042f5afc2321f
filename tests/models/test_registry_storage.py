"""What a storage may do to a registry: files damaged, renamed or in the way; object stores' conditional writes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.models.registering import register
from weir.models.errors import RegistryError
from weir.models.manifest import ArtefactError
from weir.models.registry.files import LocalFiles, ObjectFiles, is_exclusive
from weir.models.registry.registry import Registry
from weir.models.registry.stages import Stages

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
        (lambda at: (at.parent / "manifest.json").write_text("{}"), "not a manifest: task is missing; give a text"),
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
    with pytest.raises(RegistryError, match=r"fraud/stages/00000001\.json: not a stage entry: action is missing"):
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
    assert is_exclusive(files)
    assert files.names("") == ["a"]


def test_a_lost_answer_to_a_write_is_not_taken_for_a_lost_race(tmp_path: Path) -> None:
    files = S3Like(f"memory://{tmp_path.name}-s3")
    files._fs.lose_next_answer = True
    files.create("a", b"mine")
    assert files.read("a") == b"mine"


def test_a_store_that_ignores_the_condition_is_found_out(tmp_path: Path) -> None:
    files = S3Like(f"memory://{tmp_path.name}-s3", honours=False)
    assert not is_exclusive(files)
    assert files.names("") == []


@pytest.mark.parametrize(
    ("url", "words"),
    [("ftp://host/models", "no exclusive writes are known for ftp://"), ("", "address is empty"),
     ("s3://bucket/models", "install its package .s3fs, gcsfs, adlfs.")],
)  # fmt: skip
def test_addresses_that_cannot_be_used(url: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        Registry(url)


def test_a_file_system_without_hard_links_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def linkless(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr("os.link", linkless)
    with pytest.raises(RegistryError, match=r"fraud/1/claim.json: .*; use a file system that has hard links"):
        LocalFiles(tmp_path).create("fraud/1/claim.json", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="check the path"):
        LocalFiles(tmp_path).create("file/1/claim.json", b"1")
