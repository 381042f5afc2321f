"""Every sentence that a reason can be is true of its row: recomputed from the raw events, for all that there is."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from tests.online.told_rows import EVENT_OPS, LABEL_OPS, WINDOWS, Stream, is_true, stream_of, task_of
from weir.online.anomaly.detector import AnomalyParams
from weir.online.batch import FloatMatrix, PredictionBatch, ScoredBatch, missing_of
from weir.online.codec.encode import encode_scored
from weir.online.codec.predictions import decode_scored
from weir.online.codec.shapes import ScoredShape
from weir.online.decisions.reasons import ReasonPolicy, ReasonWriter
from weir.online.decisions.typical import TypicalValues
from weir.online.learners.factory import REGISTRY, LearnerSpec, build_learner
from weir.online.task.reason_subjects import subjects_of


@cache
def streamed(indicators: bool) -> Stream:
    return stream_of(task_of(indicators=indicators), 36, seed=3 + indicators)


def writer_of(indicators: bool, top: int) -> ReasonWriter:
    task, policy = task_of(indicators=indicators), ReasonPolicy(positive="fraud", top=top, min_share=0.0)
    return ReasonWriter(streamed(indicators).names, policy, entity="user", subjects=subjects_of(task))


def usual_of(stream: Stream) -> TypicalValues:
    usual = TypicalValues(stream.names, every=2)
    usual.update(stream.x)
    return usual


def checked(writer: ReasonWriter, stream: Stream, added: FloatMatrix) -> list[str]:
    """Every sentence of every row; an error where one is false, or none that the oracle can check."""
    usual = usual_of(stream)
    told = writer.write(stream.x, added, usual.values(), usual.shares(stream.x))
    wrong = []
    for i, reasons in enumerate(told):
        for reason in reasons:
            true = is_true(reason.text, stream.rows[i])
            if true is False or (true is None and not _says_number(reason.feature, reason.value, reason.text)):
                wrong.append(f"row {i}: {reason.feature} = {reason.value!r}: {reason.text}")
    assert not wrong, "\n".join(wrong[:40])
    return [reason.text for reasons in told for reason in reasons]


def _says_number(name: str, value: float, text: str) -> bool:
    """What the oracle does not know, such as a new operation: the number of the column, and its window."""
    weight = AnomalyParams().model_dump().get(f"{name.removeprefix('user.odd_')}_weight", 1.0)
    window = re.search(r"_(\d+)([hd])$", name)
    in_window = window is None or re.search(rf"\b{window[1]}( |-){window[2]}", text) is not None
    if re.search(
        "(no|some) change known of the time|cannot be compared with that", text
    ):  # whether it is missing is all that it says
        return True
    plain = re.sub(r" \(usually [^)]*\)", "", text)
    numbers = [float(number.replace(",", "")) for number in re.findall(r"-?[\d,]*\.?\d+", plain)]
    units = (1.0, 60.0, 3600.0, 86_400.0, 0.01)
    return in_window and any(
        abs(value / weight - number * unit) <= 0.06 * max(abs(number * unit), unit)
        for number in numbers
        for unit in units
    )


@pytest.mark.parametrize("indicators", [False, True])
def test_each_column_of_each_row_is_told_truly(indicators: bool) -> None:
    """Each alone raises the score; what is missing is said as missing."""
    stream, writer = streamed(indicators), writer_of(indicators, top=1)
    absent = missing_of(stream.x)
    for column, name in enumerate(stream.names):
        only = np.zeros(stream.x.shape)
        only[:, column] = 1.0
        texts = checked(writer, stream, only)
        assert len(texts) == len(stream.x)
        for text, gone in zip(texts, absent[:, column], strict=True):
            assert name.endswith("_missing") or gone == bool(
                re.match("no |the event names|.* (is missing|cannot)", text)
            )
    assert absent.any()
    assert {*EVENT_OPS, *LABEL_OPS} <= {name.partition("_")[2] for name in _without_windows(stream.names)}


def _without_windows(names: tuple[str, ...]) -> list[str]:
    return [re.sub(r"_(" + "|".join(WINDOWS) + ")$", "", name) for name in names if "." in name]


@pytest.mark.parametrize("kind", sorted(REGISTRY))
def test_what_each_learner_says_is_true(kind: str) -> None:
    stream, writer = streamed(False), writer_of(False, top=5)
    inside = {"stack": ("logistic", "boosted"), "beside_full": ("logistic",)}.get(kind, ())
    params = {
        "column": {"column": "user.odd"},
        "boosted": {"every": 20, "buffer": 90},
        "adaptive_forest": {"n_models": 2},
    }.get(kind, {})
    members = tuple(LearnerSpec(kind=member) for member in inside)
    full = ("full.logit", "full.known") if kind == "beside_full" else ()
    river = "linear_model.LogisticRegression" if kind == "river" else None
    spec = LearnerSpec(kind=kind, params=params, members=members, estimator=river)
    learner = build_learner(spec, (*stream.names, *full))
    x = np.hstack([stream.x, np.zeros((len(stream.x), len(full)))])
    learner.learn_many(x, np.array(stream.y), np.ones(len(x)))
    added = learner.contributions(x)[:, : len(stream.names)]
    texts = checked(writer, stream, added)
    assert not any("1.0x" in text and "odds" in text for text in texts)
    assert texts or not added.max() > 1.0


def test_a_row_that_was_logged_is_told_alike() -> None:
    """The sign of a missing value comes back from a record, so a labelling worker elsewhere writes the same reasons."""
    stream, n = streamed(False), 30
    p = PredictionBatch([f"e{k}" for k in range(n)], ["u"] * n, np.full(n, 1.7e9), np.full(n, 0.5),
                        np.zeros(n, np.int64), stream.x[:n])  # fmt: skip
    records = encode_scored(ScoredBatch(p, np.empty((n, 0)), np.empty((n, 0)), {}), stream.names, "t", 1.7e9)
    read = decode_scored(records, {"t": ScoredShape(stream.names, 0, 0, ())}).tasks["t"].scored.predictions.features
    assert read.tobytes() == stream.x[:n].tobytes()
