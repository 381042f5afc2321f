"""Training an encoder: what it learns, and that stopping, killing, repeating and sharing it change nothing."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors

from tests.models.training_data import DAY, INPUTS, logged, small
from weir.models.dataset.cut import training_set
from weir.models.errors import ModelError
from weir.models.evaluation.gate import quality
from weir.models.onnx.graph import open_session, run_graph
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.loop import Loop
from weir.models.training.nextevent import bucket
from weir.models.training.training_run import _config, _fresh, files_of, fitted, load, metrics_of
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import TrainingSet, TrainingStoppedError

torch.set_num_threads(1)
TINY = EncoderSettings(
    hidden=6, embedding=1, knots=2, length=12, warmup=3, batch=8, epochs=2, buckets=32, negatives=8, event_dropout=0.05,
    time_jitter=0.1, checkpoint_steps=3,
)  # fmt: skip


def silent(what: str, done: int, of: int) -> None: ...


def ignored(phase: str, epoch: int, metric: float) -> None: ...


def fit(data: TrainingSet, work: Path, settings: EncoderSettings = TINY, seed: int = 1, **more: Any) -> Loop:
    asks = (more.get("progress", silent), more.get("stop", lambda: False), more.get("on_epoch", ignored))
    return fitted(settings, data, work, seed, more.get("warm_start"), asks)


def files(loop: Loop) -> Mapping[str, bytes]:
    return files_of(loop.network, {})


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return small(400)


@pytest.fixture(scope="module")
def whole(data: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    return fit(data, tmp_path_factory.mktemp("whole"))


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_numbers_of_others(
    data: TrainingSet, whole: Loop, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    again = fit(data, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert files(again) == files(whole)
    assert again.at == whole.at
    assert files(fit(data, tmp_path / "other", seed=2)) != files(whole)


def test_a_training_stopped_again_and_again_ends_the_same(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    asked, stops = 0, 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % 6 == 0

    while True:
        try:
            loop = fit(data, tmp_path, stop=stop)
            break
        except TrainingStoppedError:
            stops += 1
    assert stops >= 3
    assert files(loop) == files(whole)
    assert loop.at == whole.at


@pytest.mark.parametrize("at", [2, 8, 13])
def test_a_killed_training_goes_on_from_its_checkpoint(at: int, data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    steps = [0, 0]

    def killed(what: str, done: int, of: int) -> None:
        steps[0] += 1
        if steps[0] == at:
            raise KeyboardInterrupt

    def counted(what: str, done: int, of: int) -> None:
        steps[1] += 1

    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path, progress=killed)
    loop = fit(data, tmp_path, progress=counted)
    assert files(loop) == files(whole)
    assert at < 3 or steps[1] < sum(steps) - 2  # at most three steps are done again


def test_a_finished_training_is_not_run_again(data: TrainingSet, whole: Loop) -> None:
    again = fit(data, whole.work, progress=lambda *_: pytest.fail("it went on"))
    assert files(again) == files(whole)


def test_other_data_does_not_use_the_checkpoint(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    other = small(400, seed=5)
    assert files(fit(other, whole.work)) == files(fit(other, tmp_path))


def test_it_learns_what_only_a_memory_can_know(tmp_path: Path) -> None:
    settings = replace(TINY, epochs=6, rate=3e-2, event_dropout=0.0, time_jitter=0.0, head_epochs=0)
    assert metrics_of(fit(small(900), tmp_path, settings))["valid_roc_auc"] > 0.85  # this event alone gives about .65


def test_the_weights_that_validated_best_are_kept(data: TrainingSet, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    loop = fit(data, tmp_path, replace(TINY, epochs=4, rate=0.05), on_epoch=lambda p, _, m: told.append((p, m)))
    best = max(metric for _, metric in told)
    assert told[0][0] == "head"
    assert metrics_of(loop)["valid_average_precision"] == best
    assert quality(loop.validation.y, loop._scores(), loop.validation.weight)["average_precision"] == pytest.approx(
        best
    )


def test_it_ends_early_when_the_validation_gets_no_better(data: TrainingSet, tmp_path: Path) -> None:
    flat = replace(TINY, epochs=9, pretrain_epochs=0, rate=1e-12, patience=2, next_weight=0.0)
    loop = fit(data, tmp_path, flat)
    assert len(loop.at.epochs) <= 4


def test_pre_training_lowers_what_the_next_event_costs_and_sees_no_label(data: TrainingSet, tmp_path: Path) -> None:
    settings = replace(TINY, pretrain_epochs=4, epochs=1, head_epochs=0, pretrain_rate=1e-2)
    losses = [float(e["loss"]) for e in fit(data, tmp_path / "a", settings).at.epochs if e["phase"] == "pre-train"]
    assert losses[-1] < 0.9 * losses[0]
    flipped = replace(data, labels=replace(data.labels, y=~data.labels.y))
    again = [float(e["loss"]) for e in fit(flipped, tmp_path / "b", settings).at.epochs if e["phase"] == "pre-train"]
    assert again == losses


def test_recommendations_follow_the_circle_of_items(tmp_path: Path) -> None:
    data = small(500)
    history = replace(data.history, x=np.column_stack([data.history.item, data.history.x[:, 1:]]).astype(np.float32))
    settings = replace(TINY, hidden=12, batch=4, buckets=64, pretrain_epochs=6, pretrain_rate=3e-2, epochs=1,
                       head_epochs=0, rate=1e-9, next_weight=0.0, event_dropout=0.0)  # fmt: skip
    loop = fit(replace(data, history=history), tmp_path, settings)
    rows = np.flatnonzero(history.entity == 0)[:15]
    with torch.no_grad():
        states, _, _ = loop.network.encoder.hidden(torch.from_numpy(history.x[rows])[None], torch.zeros(1, 12))
        heads = loop.network.heads
        assert heads.query is not None
        assert heads.items is not None
        at = torch.from_numpy(bucket(np.arange(4), settings.buckets))
        scores = heads.query(states[0]) @ heads.items(at).T
    assert (scores.argmax(1).numpy() == (history.item[rows] + 1) % 4).mean() > 0.9


def test_a_warm_start_is_short_and_never_worse_than_what_it_started_from(
    data: TrainingSet, whole: Loop, tmp_path: Path
) -> None:
    told: list[str] = []
    rough = replace(TINY, warm_rate=0.5)
    warm = fit(data, tmp_path, rough, warm_start=files(whole), on_epoch=lambda p, *_: told.append(p))
    assert told == ["before", "fine-tune", "fine-tune"]
    assert metrics_of(warm)["warm_start"] == 1
    assert metrics_of(warm)["valid_average_precision"] >= metrics_of(whole)["valid_average_precision"]


def test_a_warm_start_learns_recent_labels_only(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    recent = replace(TINY, warm_days=10.0)
    old = data.history.ts[data.labels.row] < 30 * DAY
    lied = replace(data, labels=replace(data.labels, y=data.labels.y ^ old))
    start = files(whole)
    one, other = (fit(d, tmp_path / n, recent, warm_start=start) for d, n in ((data, "a"), (lied, "b")))
    assert files(one) == files(other)


def test_a_warm_start_of_other_inputs_is_not_used(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    renamed = replace(data, history=replace(data.history, inputs=("drive", "since_last", "other")))
    loop = fit(renamed, tmp_path, warm_start=files(whole))
    assert metrics_of(loop)["warm_start"] == 0
    assert loop.network.encoder.inputs[-1] == "other"


def test_a_warm_start_of_another_shape_is_not_used_and_dropout_is_what_the_task_says(
    data: TrainingSet, whole: Loop, tmp_path: Path
) -> None:
    other = fit(data, tmp_path / "a", replace(TINY, knots=4), warm_start=files(whole))
    assert (metrics_of(other)["warm_start"], other.network.encoder.config.knots) == (0, 4)
    calm = fit(data, tmp_path / "b", replace(TINY, dropout=0.3), warm_start=files(whole))
    assert metrics_of(calm)["warm_start"] == 1
    assert load(files(calm)).encoder.drop.p == 0.3


def test_a_blend_that_left_the_encoder_out_is_no_warm_start(data: TrainingSet, tmp_path: Path) -> None:
    assert metrics_of(fit(data, tmp_path, warm_start={"model.txt": b"tree"}))["warm_start"] == 0


def test_a_warm_start_finds_types_by_name(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    more = replace(data.history, types=("buy", "play", "view"), type=data.history.type + 1)
    moved = fit(replace(data, history=more), tmp_path / "a", warm_start=files(whole))
    same = fit(data, tmp_path / "b", warm_start=files(whole))
    assert files(moved) == files(same)


@pytest.mark.parametrize("damage", ["cut", "missing", "format"])
def test_a_damaged_warm_start_is_refused(damage: str, data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    broken = dict(files(whole))
    if damage == "cut":
        broken["weights.safetensors"] = broken["weights.safetensors"][:-9]
    elif damage == "missing":
        del broken["encoder.json"]
    else:
        broken["encoder.json"] = broken["encoder.json"].replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ModelError, match=r"warm start|format 2"):
        fit(data, tmp_path, warm_start=broken)


def test_nothing_that_was_unknown_changes_anything(tmp_path: Path) -> None:
    """Labels known after the cutoff, and those of validation for the weights of a training that does not choose."""
    history, labels = logged(400)
    cutoff = 45 * DAY
    once = replace(TINY, epochs=1, head_epochs=0)

    def at(flipped: np.ndarray[tuple[int], np.dtype[np.bool_]], name: str) -> Mapping[str, bytes]:
        told = replace(labels, y=labels.y ^ flipped)
        data = training_set(history, told, cutoff, 10 * DAY, 3 * DAY, min_labels=20, min_positives=5)
        return files(fit(data, tmp_path / name, once))

    plain = at(np.zeros(400, np.bool_), "plain")
    assert at(labels.known_at > cutoff, "later") == plain
    learned = (history.ts < cutoff - 13 * DAY) & (labels.known_at < cutoff - 13 * DAY)
    gap = (history.ts < cutoff - 13 * DAY) & ~learned
    assert gap.any()
    assert at(gap, "gap") == plain
    validation = history.ts >= cutoff - 13 * DAY
    swapped = np.zeros(400, np.bool_)
    swapped[np.flatnonzero(validation)[:6]] = True
    assert at(swapped, "validation") == plain
    assert at(learned & (np.arange(400) < 40), "learned") != plain


def test_without_a_label_to_learn_from_it_says_so(data: TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lengthen window"):
        fit(replace(data, valid_from=0.0), tmp_path)


def test_cuda_that_is_not_there_is_an_error(data: TrainingSet, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match="set device to auto"):
        fit(data, tmp_path, replace(TINY, device="cuda"))


def test_the_builder_hands_over_the_graph_of_its_weights(data: TrainingSet, whole: Loop, tmp_path: Path) -> None:
    built = EncoderBuilder(TINY).build(data, whole.work, 1)
    assert (built.kind, built.inputs, built.state, built.embedding, built.seed) == ("encoder", INPUTS, 6, 1, 1)
    encoder = load(built.files).encoder.eval()
    x, state = data.history.x[:9], np.zeros((9, 6), np.float32)
    got = run_graph(open_session(built.onnx), x, state)
    with torch.no_grad():
        logit, after, embedding = encoder.step(torch.from_numpy(x), torch.from_numpy(state))
    assert np.allclose(got["logit"], logit, atol=1e-4)
    assert np.allclose(got["state_out"], after, atol=1e-4)
    assert np.allclose(got["embedding"], embedding, atol=1e-4)


def _one_of_two(rank: int, port: int, data: TrainingSet, work: Path, settings: EncoderSettings) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    loop = fit(data, work, settings)
    (work / f"{rank}.safetensors").write_bytes(files(loop)["weights.safetensors"])


def test_two_processes_learn_what_one_does(data: TrainingSet, tmp_path: Path) -> None:
    settings = replace(TINY, dropout=0.0, time_jitter=0.0, device="cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    (tmp_path / "two").mkdir()
    pair = [fork.Process(target=_one_of_two, args=(r, port, data, tmp_path / "two", settings)) for r in range(2)]
    for process in pair:
        process.start()
    alone = tensors(files(fit(data, tmp_path / "one", settings))["weights.safetensors"])
    for process in pair:
        process.join(60)
        assert process.exitcode == 0
    one, other = (tensors((tmp_path / f"two/{r}.safetensors").read_bytes()) for r in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.allclose(one[name], alone[name], atol=1e-4) for name in one)


def test_the_scale_of_inputs_is_that_of_rows_before_the_validation_window(data: TrainingSet) -> None:
    late = data.history.ts >= data.valid_from
    assert 0 < late.sum() < len(late)
    other = data.history.x.copy()
    other[late] = other[late] * 1000 + 7
    changed = replace(data, history=replace(data.history, x=other))
    config = _config(TINY, data.history.inputs)
    made, again = (_fresh(TINY, config, of).encoder.normalise for of in (data, changed))
    for name in ("log", "mean", "scale", "low", "slope"):
        assert torch.equal(getattr(made, name), getattr(again, name)), name
    assert float(made.scale.abs().sum()) > 0
