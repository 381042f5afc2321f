from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from weir.models.manifest import ArtefactError, DataRange, FileEntry, Manifest, Variant, inputs_digest, parse_manifest

FIELDS: dict[str, Any] = {
    "task": "fraud", "version": 3, "kind": "encoder", "inputs": ("a", "b"), "inputs_digest": inputs_digest(("a", "b")),
    "state": 4, "embedding": 0, "opset": 18, "created_at": 1.7e9, "label_delay": 86_400.0, "code": "0.1.0+src.abc",
    "data": DataRange(start=1.0, end=2.0, cutoff=3.0), "metrics": {"average_precision": 0.75},
    "files": {"model.onnx": FileEntry.of(b"graph")},
}  # fmt: skip


def made(**changes: object) -> Manifest:
    return Manifest.model_validate(FIELDS | changes)


def test_what_is_written_is_read_and_its_digest_is_that_of_the_file() -> None:
    manifest = made(parent=2, variants={"model.onnx": Variant(precision="float32", measured={"speed_ratio": 1.0})})
    data = manifest.canonical()
    assert parse_manifest(data, "here") == manifest
    assert manifest.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_digest_changes_with_every_field() -> None:
    other = {"task": "churn", "version": 4, "created_at": 1.7e9 + 1, "metrics": {}, "seed": 2, "parent": 1,
             "files": {"model.onnx": FileEntry.of(b"other")}}  # fmt: skip
    assert len({made().digest, *(made(**{name: value}).digest for name, value in other.items())}) == 1 + len(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": {}}, "files lack model.onnx"),
        ({"files": {"model.onnx": FileEntry.of(b""), "../x": FileEntry.of(b"")}}, "pattern"),
        ({"files": {"model.onnx": FileEntry.of(b""), "manifest.json": FileEntry.of(b"")}}, "one of its own files"),
        ({"variants": {"model.int8.onnx": Variant(precision="int8")}}, "variants name files that are not there"),
        ({"inputs": ("b", "a")}, "inputs_digest is not that of the 2 inputs"),
        ({"metrics": {"roc_auc": float("nan")}}, "finite number"),
        ({"task": "../fraud"}, "pattern"),
        ({"version": 0}, "greater than or equal to 1"),
        ({"owner": "me"}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        made(**changes)


def test_times_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="start = 5 lies after end = 2"):
        DataRange(start=5.0, end=2.0, cutoff=3.0)


def test_an_edited_file_is_refused_also_when_it_means_the_same() -> None:
    data = made().canonical()
    with pytest.raises(ArtefactError, match="here: not in canonical form"):
        parse_manifest(orjson.dumps(orjson.loads(data)), "here")
    with pytest.raises(ArtefactError, match=r"here: not a manifest: version: got 0; give a whole number of at least 1"):
        parse_manifest(data.replace(b'"version": 3', b'"version": 0'), "here")
    with pytest.raises(ArtefactError, match="not a manifest: not JSON"):
        parse_manifest(data[:40], "here")
