"""The parts of training: chunks, ranking, next-event heads, augmentation, checkpoints, phases."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.models.training_data import logged, small
from weir.models.dataset.sequences import next_events
from weir.models.dataset.split import train_rows
from weir.models.errors import ModelError
from weir.models.evaluation.gate import quality
from weir.models.training.checkpoints import Checkpoint, TrainingProgress, read
from weir.models.training.child_process import read_progress
from weir.models.training.chunks import Timeline, batches, cut
from weir.models.training.feed import Feed
from weir.models.training.nextevent import NextHeads, NextSpec, NextTargets, bucket
from weir.models.training.phases import phases, rate_at
from weir.models.training.training_settings import EncoderSettings
from weir.online.task.full_spec import TrainingSpec

torch.set_num_threads(1)


@settings(max_examples=40)
@given(
    entity=st.lists(st.integers(0, 3), min_size=1, max_size=30), length=st.integers(1, 7), warmup=st.integers(0, 5),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_every_wanted_event_counts_once_behind_its_own_past(
    entity: list[int], length: int, warmup: int, seed: int
) -> None:
    history, _ = logged(len(entity))
    timeline = Timeline.of(replace(history, entity=np.array(entity)))
    wanted = np.random.default_rng(seed).random(len(entity)) < 0.5
    chunks = cut(timeline, wanted, length, warmup)
    owner = np.array(entity)[timeline.order]
    times = np.zeros(len(entity), np.int64)
    at, there, counted = chunks.positions()
    for k in range(len(chunks)):
        mine = at[k][there[k]]
        assert len(set(owner[mine])) == 1
        assert counted[k].sum() <= length
        first = timeline.starts[np.searchsorted(timeline.starts, mine[0], side="right") - 1]
        assert chunks.start[k] - mine[0] == min(warmup, chunks.start[k] - first)
        times[at[k][counted[k]]] += 1
    assert (times[wanted] == 1).all()
    assert times.max(initial=0) <= 1


@settings(max_examples=30)
@given(count=st.integers(1, 60), size=st.integers(1, 9), seed=st.one_of(st.none(), st.integers(0, 5)))
def test_batches_hold_each_chunk_once(count: int, size: int, seed: int | None) -> None:
    history, _ = logged(count)
    chunks = cut(Timeline.of(history), np.ones(count, np.bool_), 3, 1)
    made = list(batches(chunks, size, None if seed is None else np.random.default_rng(seed)))
    assert all(len(part) <= size for part in made)
    assert sorted(np.concatenate([part.start for part in made])) == sorted(chunks.start)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.floats(0.1, 5)), min_size=2, max_size=30))
def test_ranking_is_that_of_scikit_learn(rows: list[tuple[bool, int, float]]) -> None:
    y, score, weight = (np.array(v) for v in zip(*rows, strict=True))
    score = score.astype(float)
    found = quality(y, score, weight)
    if y.all() or not y.any():
        assert np.isnan([*found.values()]).all()
        return
    assert found["average_precision"] == pytest.approx(average_precision_score(y, score, sample_weight=weight))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, score, sample_weight=weight))


def loss_of(heads: NextHeads, hidden: torch.Tensor, targets: NextTargets, counted: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        loss: torch.Tensor = heads(hidden, targets, counted)
    return loss


def test_next_heads_count_only_what_there_is() -> None:
    heads = NextHeads(NextSpec(types=("a", "b"), amount=True, buckets=8, negatives=5), 3)
    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    nothing = NextTargets(
        torch.full((2, 4), -1), torch.full((2, 4), torch.nan), torch.full((2, 4), torch.nan), torch.full((2, 4), -1),
        torch.arange(5),
    )  # fmt: skip
    assert float(loss_of(heads, hidden, nothing, torch.ones(2, 4, dtype=torch.bool))) == 0
    one = replace(nothing, type=torch.tensor([[0, -1, -1, -1], [-1, -1, -1, -1]]))
    counted = torch.zeros(2, 4, dtype=torch.bool)
    assert float(loss_of(heads, hidden, one, counted)) == 0
    counted[0, 0] = True
    assert float(loss_of(heads, hidden, one, counted)) > 0


def test_a_drawn_item_that_is_the_right_one_is_no_mistake() -> None:
    heads = NextHeads(NextSpec(buckets=4, negatives=2), 3)
    hidden = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(0))
    targets = NextTargets(
        torch.tensor([[-1]]), torch.tensor([[torch.nan]]), torch.tensor([[torch.nan]]), torch.tensor([[2]]),
        torch.tensor([2, 2]),
    )  # fmt: skip
    assert float(loss_of(heads, hidden, targets, torch.ones(1, 1, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_there_are_heads_only_for_what_the_history_tells() -> None:
    history, _ = logged(50)
    full = NextSpec.of(history, 16, 4)
    assert (full.types, full.amount, full.buckets) == (("play", "view"), True, 16)
    bare = replace(history, types=("play",), amount=np.full(50, np.nan), item=np.full(50, -1))
    assert NextSpec.of(bare, 16, 4) == NextSpec((), False, 0, 4)
    assert NextHeads(NextSpec.of(bare, 16, 4), 3).items is None


def test_negatives_are_drawn_as_often_as_they_occur() -> None:
    history, _ = logged(400)
    heads = NextHeads(NextSpec(buckets=4096, negatives=4000), 3)
    heads.fit(next_events(history), np.where(np.arange(400) % 4 == 0, 7, 9))
    drawn = heads.draw(np.random.default_rng(0))
    common, rare = bucket(np.array([9, 7]), 4096)
    assert 1.5 < (drawn == common).sum() / max((drawn == rare).sum(), 1) < 6


def test_left_out_events_are_gone_and_the_others_keep_their_labels() -> None:
    data = small()
    rows = train_rows(data)
    plain = EncoderSettings(length=8, warmup=2, event_dropout=0.3)
    feed = Feed(data.history, rows, plain, NextSpec(), warm=False)
    chunks = cut(feed.timeline, feed.labelled(), 8, 2)
    heads = NextHeads(NextSpec(), 3)
    batch = feed.batch(chunks, np.random.default_rng(0), heads, slice(None), torch.device("cpu"))
    x, y = batch.x.numpy(), batch.y.numpy()
    by_value = {row.tobytes(): label for row, label in zip(data.history.x[rows.row], rows.y, strict=True)}
    share = float((batch.weight > 0).sum()) / len(rows)
    assert 0.6 < share < 0.8
    for b, t in zip(*np.nonzero(batch.weight.numpy()), strict=True):
        assert by_value[x[b, t].tobytes()] == y[b, t]


def test_jitter_touches_times_only() -> None:
    data = small()
    feed = Feed(data.history, train_rows(data), EncoderSettings(time_jitter=0.2), NextSpec(), warm=False)
    calm = Feed(data.history, train_rows(data), EncoderSettings(), NextSpec(), warm=False)
    chunks, heads, cpu = cut(feed.timeline, feed.labelled(), 64, 16), NextHeads(NextSpec(), 3), torch.device("cpu")
    x = feed.batch(chunks, np.random.default_rng(0), heads, slice(None), cpu).x
    was = calm.batch(chunks, np.random.default_rng(0), heads, slice(None), cpu).x
    assert torch.equal(x[..., [0, 2]], was[..., [0, 2]])
    moved = (x[..., 1] / was[..., 1])[was[..., 1] > 0]
    assert 0.1 < float(torch.log(moved).std()) < 0.3


def test_shares_of_a_batch_are_the_batch() -> None:
    data = small()
    feed = Feed(data.history, train_rows(data), EncoderSettings(), NextSpec(), warm=False)
    chunks, heads = cut(feed.timeline, feed.labelled(), 8, 2).take(np.arange(3)), NextHeads(NextSpec(), 3)
    parts = [
        feed.batch(chunks, np.random.default_rng(0), heads, slice(r, None, 4), torch.device("cpu")) for r in range(4)
    ]
    assert sum(float(p.weight.sum()) for p in parts) == pytest.approx(parts[0].label_weight)
    assert sum(int(p.counted.sum()) for p in parts) == parts[0].events
    assert len(parts[3].x) == 1  # a process without a chunk still takes its part in the step


def test_the_rate_rises_and_falls() -> None:
    phase = phases(EncoderSettings(rate=1.0), warm=False, newest=0.0)[-1]
    rates = [rate_at(phase, k, 100) for k in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (9, 10)
    assert rates[-1] < 0.02


def test_a_checkpoint_is_read_back_and_only_by_its_own_training(tmp_path: Path) -> None:
    at = TrainingProgress(1, 2, 3, 0.5, 0.7, {"roc_auc": 0.8}, 1, [{"phase": "head", "loss": 1.0}])
    made = Checkpoint("mine", at, {"a.b": torch.ones(2)}, {}, {"0.step": torch.tensor(3.0)})
    made.write(tmp_path)
    again = read(tmp_path, "mine")
    assert again is not None
    assert again.at == at
    assert torch.equal(again.model["a.b"], torch.ones(2))
    assert float(again.optimiser["0.step"]) == 3
    assert read(tmp_path, "other") is None
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    Checkpoint("mine", TrainingProgress(), {"a": torch.ones(9)}, {}, {}).write(tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ModelError, match="delete it"):
        read(tmp_path, "mine")


@pytest.mark.parametrize("wrong", [
    {"hidden": 0}, {"dropout": 1.0}, {"epochs": 0}, {"event_dropout": -0.1}, {"warmup": -5}, {"warm_days": -1.0},
    {"next_weight": float("nan")}, {"time_jitter": -0.1}, {"rate": float("nan")}, {"pretrain_rate": float("inf")},
    {"warm_rate": 0.0}, {"gradient_norm": 0.0},
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(wrong))):
        EncoderSettings(**wrong)  # type: ignore[arg-type]


def test_settings_of_a_task_file_have_their_types() -> None:
    """Its table takes numbers of any kind, so a whole one arrives as a float."""
    plain = asdict(EncoderSettings())
    written = TrainingSpec(encoder={name: v for name, v in plain.items() if not isinstance(v, tuple)}).encoder
    found = EncoderSettings.of(written)
    assert found == EncoderSettings()
    assert {name: type(v) for name, v in asdict(found).items()} == {name: type(v) for name, v in plain.items()}


@pytest.mark.parametrize(("name", "value"), [("epochs", 2.5), ("epoch", 8), ("device", "gpu"), ("rate", "fast")])
def test_settings_of_a_task_file_that_cannot_be_are_named(name: str, value: float | str) -> None:
    with pytest.raises(ModelError, match=rf"\[full.training\] encoder: {name} = {value!r}: "):
        EncoderSettings.of({name: value})


def test_what_libraries_print_among_the_progress_is_passed_over() -> None:
    printed = [b"5\n", b"null\n", b'{"a": 1, "b": 2, "c": 3}\n', b"[1, 2]\n", b'["a", null, 2]\n', b"\xff\n", b"\n"]
    told: list[tuple[str, int, int]] = []
    read_progress([*printed, b'["head", 1, 2]\n', *printed], lambda *step: told.append(step))
    assert told == [("head", 1, 2)]
