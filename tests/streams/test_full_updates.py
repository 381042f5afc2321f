"""Which version serves follows from the records of ``model-updates`` alone."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate
from weir.streams.offline_models.model_updates import UpdateFold, decode_updates, update_record

DIGEST = "sha256:" + "0" * 64


def update(action: str, version: int | str, at: float = 1.7e9, task: str = "fraud") -> ModelUpdate:
    return ModelUpdate.model_validate({
        "task": task, "version": str(version), "action": action, "uri": f"/m/{task}/{version}", "digest": DIGEST,
        "created_at": at,
    })  # fmt: skip


def after(*steps: tuple[str, int]) -> tuple[int | None, int | None]:
    fold = UpdateFold()
    for at, (action, version) in enumerate(steps):
        fold.apply(update(action, version, 1.7e9 + at))
    return serving(fold)


def serving(fold: UpdateFold, task: str = "fraud") -> tuple[int | None, int | None]:
    found = fold.versions(task)
    champion, shadow = (ref.version if ref is not None else None for ref in (found.champion, found.shadow))
    return champion, shadow


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], (None, None)),
        ([("shadow", 1)], (None, 1)),
        ([("promote", 1)], (1, None)),
        ([("promote", 1), ("shadow", 2)], (1, 2)),
        ([("promote", 1), ("shadow", 2), ("shadow", 3)], (1, 3)),
        ([("promote", 1), ("shadow", 2), ("promote", 2)], (2, 1)),
        ([("promote", 1), ("promote", 2), ("retire", 1)], (2, None)),
        ([("promote", 1), ("promote", 2), ("rollback", 1)], (1, None)),
        ([("promote", 1), ("shadow", 2), ("retire", 2)], (1, None)),
        ([("promote", 1), ("retire", 1)], (None, None)),
        ([("promote", 1), ("shadow", 2), ("retire", 1)], (None, 2)),
        ([("promote", 1), ("retire", 9)], (1, None)),
        ([("promote", 1), ("shadow", 1)], (1, None)),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 2)], (2, 1)),
        ([("promote", 1), ("promote", 2), ("promote", 2)], (2, 1)),
    ],
)
def test_what_serves_after_each_action(steps: list[tuple[str, int]], expected: tuple[int | None, int | None]) -> None:
    assert after(*steps) == expected


ACTIONS = st.sampled_from(["shadow", "promote", "rollback", "retire"])


@given(st.lists(st.tuples(ACTIONS, st.integers(1, 4)), max_size=12), st.data())
def test_records_that_come_again_anywhere_behind_change_nothing(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    updates = [update(action, version, 1.7e9 + at) for at, (action, version) in enumerate(steps)]
    fold, repeated = UpdateFold(), UpdateFold()
    for at, each in enumerate(updates):
        fold.apply(each)
        repeated.apply(each)
        repeated.apply(updates[data.draw(st.integers(0, at))])
    assert serving(fold) == serving(repeated)


def test_tasks_do_not_touch_each_other() -> None:
    fold = UpdateFold()
    for each in (update("promote", 1), update("shadow", 2, task="churn"), update("retire", 7, task="x")):
        fold.apply(each)
    assert (serving(fold), serving(fold, "churn"), serving(fold, "nobody")) == ((1, None), (None, 2), (None, None))


def test_records_come_back_as_they_were_and_bad_ones_are_told_apart() -> None:
    good, other = update("promote", 3), update("shadow", 4)
    record = update_record(good, 5.0)
    assert (record.key, record.ts) == (b"fraud", 5.0)
    raw = [record.value, b"{", encode_model(update("promote", "latest")), None, encode_model(update("promote", 0))]
    found = decode_updates([*raw, encode_model(other)])
    assert found.updates == [good, other]
    assert [reject.index for reject in found.rejects] == [1, 2, 3, 4]
    assert "a version of the registry" in found.rejects[1].reason
    unknown = orjson.dumps({**orjson.loads(record.value), "new_field": 1})
    assert decode_updates([unknown]).updates == [good]
