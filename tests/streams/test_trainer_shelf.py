"""The trainer's shelf in the registry: a job registers once, stages move once, and variants come with their cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.streams.trainer_fakes import NOW, asked, spec, training_data
from weir.models.manifest import Variant
from weir.models.registry.registry import Registry
from weir.models.types import BoolVector, Built, IntVector, TrainingSet
from weir.streams.trainer.job.job_steps import JudgeWork, get, put
from weir.streams.trainer.job.real_steps import score
from weir.streams.trainer.registry_port import JOB_FILE, RegistryShelf
from weir.streams.trainer.task_state import Effect, Job


def tiny(weight: float) -> Built:
    import onnx.parser

    graph = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[n, 1] x) => (float[n] logit) <int64[1] one = {{1}}, float w = {{{weight}}}>
    {{ s = ReduceSum <keepdims = 0> (x, one)
       logit = Mul(s, w) }}""")
    return Built("trees", graph.SerializeToString(), ("truth",))


COUNTS = {"start": NOW - 100, "end": NOW - 1, "cutoff": NOW, "events": 10.0, "labels": 10.0, "positives": 2.0,
          "label_delay": 7 * 86_400.0}  # fmt: skip


def test_the_shelf_registers_once_and_moves_stages_once(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    shelf = RegistryShelf(registry)
    jobs = [Job(f"fraud-{n}", asked(n, NOW), NOW, NOW) for n in (1, 2)]
    versions = [shelf.register("fraud", tiny(job + 1.0), jobs[job], COUNTS, NOW) for job in (0, 0, 1, 1)]
    assert versions == [1, 1, 2, 2]
    assert b"fraud-1" in registry.load("fraud", 1).files[JOB_FILE]
    assert registry.manifest("fraud", 1).label_delay == 7 * 86_400.0

    def tell(action: Any, version: int) -> tuple[int, int | None]:
        told = [shelf.tell("fraud", Effect(action, version, NOW, {"a": 1.0}), "why") for _ in range(2)]
        assert told[0] == told[1]
        assert told[0] is not None
        assert told[0].digest == registry.manifest("fraud", version).digest
        return shelf.champion("fraud"), registry.stages("fraud").shadow

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


def test_the_shelf_keeps_what_can_be_rolled_back_to_and_heeds_who_retired_it(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    shelf = RegistryShelf(registry)
    for n in (1, 2):
        shelf.register("fraud", tiny(float(n)), Job(f"fraud-{n}", asked(n, NOW), NOW, NOW), COUNTS, NOW)
        shelf.tell("fraud", Effect("promote", n, NOW, {}), "why")
    shelf.tell("fraud", Effect("retire", 1, NOW, {}), "the watch is over")
    assert registry.rollback("fraud", at=NOW).champion == 1, "a person may still go back"
    shelf.tell("fraud", Effect("promote", 2, NOW, {}), "why")
    registry.set_stage("fraud", 1, "archived", at=NOW, why="a person: never again")
    assert shelf.tell("fraud", Effect("rollback", 1, NOW, {}), "worse") is None
    assert shelf.champion("fraud") == 2


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
    job = Job("fraud-1", asked(1, NOW), NOW, NOW)
    RegistryShelf(registry).register("fraud", get(path), job, COUNTS, NOW)
    variants = registry.verify("fraud", 1).manifest.variants
    assert list(variants) == kept
    assert all(variant.measured == {"max_logit_change": 0.5} for variant in variants.values())
