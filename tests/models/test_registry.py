"""One suite over every storage: what is registered is loaded, by number and digest; what cannot serve is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.models.graphs import candidate, linear_graph
from tests.models.registering import DATA, register
from weir.models.errors import ModelError
from weir.models.evaluation.quantise import FLOAT16, variants
from weir.models.manifest import ArtefactError, Variant
from weir.models.registry.registry import Registry, split_uri
from weir.models.registry.stages import Stages
from weir.online.codec.accept import accept_records
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate


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
        (
            {"metrics": {"roc_auc": float("nan")}},
            "cannot be registered: metrics.roc_auc: got nan; give a finite number",
        ),
        ({"files": {"../up": b""}}, "cannot be registered: files"),
        ({"files": {"model.onnx": b""}}, "the registry's own names"),
    ]
    for fields, words in wrong:
        with pytest.raises(ModelError, match=words):
            registry.register("fraud", replace(good, **fields), data=DATA, created_at=1.0)
    promised = replace(good, variants={"model.int8.onnx": Variant(precision="int8")})
    with pytest.raises(ModelError, match=r"variant model\.int8\.onnx is not among the files"):
        registry.register("fraud", promised, data=DATA, created_at=1.0)
    with pytest.raises(ModelError, match=r"task: got '\.\./fraud'; give a name in lower-case letters"):
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


def test_the_update_that_tells_workers_is_a_valid_record(registry: Registry) -> None:
    register(registry)
    update = registry.announce("fraud", 1, "promote", at=1.7e9)
    assert (update.version, update.digest) == ("1", registry.manifest("fraud", 1).digest)
    assert split_uri(update.uri) == ("", "fraud", 1), "each process knows the registry's root by its own settings"
    assert not accept_records(ModelUpdate, [encode_model(update)]).rejects


def test_a_uri_that_names_no_version_is_refused() -> None:
    for uri in ("s3://bucket/models/fraud", "3", "/3", "/fraud/0", "/fraud/3", "fraud/0", "s3://b/m/fraud/3/"):
        with pytest.raises(ModelError, match="names no version"):
            split_uri(uri)
