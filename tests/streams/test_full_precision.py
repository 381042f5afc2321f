"""``[models] precision``: which graph of a version serves, what a prediction says of it, and what stands in for it."""

from __future__ import annotations

import logging
from typing import Literal

import pytest

from tests.models.graphs import recurrent_graph
from tests.streams.full_events import START, events, feature, predictions
from tests.streams.full_graphs import DATA, Models
from tests.streams.host_runs import process_all
from weir.models.evaluation.quantise import FLOAT16, INT8, variants
from weir.models.manifest import Precision, Variant
from weir.models.registry.stages import Stages
from weir.models.types import Built
from weir.online.codec.wire import Prediction
from weir.online.task.spec import TaskSpec
from weir.streams.checks.state_checks import _told
from weir.streams.cli.models.models import page
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.offline_models.loading import full_models
from weir.streams.offline_models.model_updates import update_record
from weir.streams.offline_models.serving import FullModels

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")


@pytest.fixture
def recurrent(own: Models) -> int:
    """A version with a graph in every precision, beside version 1, which has one in float32 only."""
    onnx = recurrent_graph(inputs=len(own.inputs), embedding=0)
    made = variants(onnx)
    said = {FLOAT16: Variant(precision="float16"), INT8: Variant(precision="int8")}
    built = Built("encoder", onnx, own.inputs, 4, files=made, variants=said)
    version = own.registry.register(own.task, built, data=DATA, created_at=1.0).version
    own.registry.set_stage(own.task, version, "shadow", at=1.0)
    return version


def served(task: TaskSpec, own: Models, version: int, precision: Precision) -> tuple[list[Prediction], FullModels]:
    """What an embedded host says of some events with this version."""
    log = EmbeddedLog()
    full = full_models([task], ModelSettings(provider="cpu", registry=own.registry.url, precision=precision))
    host = EmbeddedHost([task], log, full=full)
    log.append(topics.MODEL_UPDATES, [update_record(own.update("promote", version), START)])
    log.append(topics.USER_EVENTS, events(0, 12))
    process_all(host)
    return predictions(log), full


def test_the_graph_of_the_precision_asked_for_serves_and_predictions_say_so(
    task: TaskSpec, own: Models, recurrent: int
) -> None:
    logits: dict[str, list[float]] = {}
    for precision, code, bits in zip(PRECISIONS, (1.0, 3.0, 5.0), (32, 16, 8), strict=True):
        made, full = served(task, own, recurrent, precision)
        assert {feature(p, "full.provider") for p in made} == {code}
        assert {feature(p, "full.version") for p in made} == {float(recurrent)}
        assert full.describe()["spend"]["precision"] == precision
        assert full.metrics.gauge("weir_full_bits", task="spend").value == bits
        assert f"in {precision}" in _told("spend", full.describe()["spend"], Stages()).found
        serves = f"version {recurrent} serves, and by the registry"
        for stages, found, move in (
            (Stages(champion=8), f"{serves} version 8 does", "8"),
            (Stages(archived=(recurrent,)), f"{serves} it is archived", f"{recurrent} --to archived"),
            (Stages(champion=recurrent, shadow=9), "version 9 is not in the shadow, and by the registry it is",
             "9 --to shadow"),
        ):  # fmt: skip
            other = _told("spend", full.describe()["spend"], stages)
            assert (other.status, other.found) == ("WARN", found)
            assert other.fix == f"tell the workers: weir models promote spend {move}"
        logits[precision] = [feature(p, "full.logit") for p in made]
    for precision, limit in (("float16", 0.02), ("int8", 0.2)):
        gaps = [abs(a - b) for a, b in zip(logits["float32"], logits[precision], strict=True)]
        assert 0 < max(gaps) < limit, f"{precision} is another graph, of the same model"


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_version_without_that_graph_serves_in_float32_and_says_so_once(
    task: TaskSpec, own: Models, precision: Literal["float16", "int8"], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made, full = served(task, own, 1, precision)
    told = [r.getMessage() for r in caplog.records if precision in r.getMessage()]
    assert told == [f"task spend: version 1 has no {precision} graph: it serves in float32"]
    assert {feature(p, "full.provider") for p in made} == {1.0}
    assert made == served(task, own, 1, "float32")[0]
    assert full.outline()["spend"] == {
        "champion": 1, "shadow": None, "wanted": 1, "provider": "cpu", "precision": "float32", "refused": [],
    }  # fmt: skip
    assert full.metrics.gauge("weir_full_bits", task="spend").value == 32


def test_show_says_which_graph_would_serve(own: Models, recurrent: int) -> None:
    def graphs(version: int, asked: Precision) -> str:
        manifest = own.registry.manifest(own.task, version)
        facts = next(iter(page(manifest, own.registry.stages(own.task), "", asked)))
        return str(list(facts.columns[1].cells)[-1])

    assert graphs(recurrent, "int8") == "float32, float16, int8; [models] precision is int8: that serves here"
    assert graphs(1, "int8") == "float32; [models] precision is int8: there is none, so float32 serves here"
