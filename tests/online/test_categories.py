"""Texts as inputs: hashed groups, shares of positives among known labels, and ratios of windows beside them."""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np
import pytest

from tests.online.feature_rows import DAY, T0
from weir.online.batch import EventBatch, UpdateBatch
from weir.online.decisions.feature_name import FeatureName
from weir.online.decisions.reasons import ReasonWriter
from weir.online.decisions.wording import Fact, sentence
from weir.online.errors import TaskError
from weir.online.features.plan import build_plan
from weir.online.task.column_plan import columns_of
from weir.online.task.reason_subjects import subjects_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of, shape_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

BARE = """
name = "t"
entity = "user"
[model]
kind = "logistic"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["mean", "rate"]
windows = ["1d", "30d", "ever"]
"""
TASK = f"""{BARE}
ratios = ["1d/30d", "24h/ever"]
[[categories]]
name = "country"
columns = 4
[[categories]]
name = "shop"
value = "merchant_id"
encode = "target"
prior = 3
prior_share = 0.1
"""


def events(countries: list[str | None], shops: list[str | None], ts: list[float]) -> EventBatch:
    n = len(ts)
    amounts = np.arange(1.0, n + 1.0)
    entities: dict[str, list[str | None]] = {"user_id": ["u"] * n, "merchant_id": shops}
    return EventBatch(
        [f"e{i}" for i in range(n)], np.array(ts), ["buy"] * n, entities, {"amount": amounts}, {"country": countries}
    )


def test_a_text_is_a_column_for_each_group_of_its_hash() -> None:
    task = TaskSpec.from_toml(TASK)
    engine = engine_of(task, MemoryFeatureStore())
    texts = ["de", "fr", None, "it", "de", "jp", "us"]
    x = engine.process(events(texts, [None] * 7, [T0 + i for i in range(7)])).x
    hot = np.column_stack([x[:, engine.features.index(f"country_group_{k}")] for k in range(4)])
    want = [[float(text is not None and crc32(text.encode()) % 4 == k) for k in range(4)] for text in texts]
    assert hot.tolist() == want
    assert not [name for name in engine.features if name.startswith(("_", "country_group_0_missing"))]


def said(task: str, column: str, value: float) -> str:
    subjects = subjects_of(TaskSpec.from_toml(task))
    return sentence(Fact(FeatureName.parse(column, subjects), value, 1.0, math.nan, math.nan, "positive label"))


def test_a_reason_names_the_texts_of_a_group_where_they_are_known() -> None:
    known = TASK.replace("columns = 4", 'columns = 4\ntexts = ["de", "fr", "it", "jp", "us", "at", "ch", "pl", "es"]')
    for group in range(4):
        members = [t for t in ("de", "fr", "it", "jp", "us", "at", "ch", "pl", "es") if crc32(t.encode()) % 4 == group]
        assert 0 < len(members) <= 4  # else the list below would be cut
        assert said(known, f"country_group_{group}", 1.0) == f"country is {' or '.join(members)}"
        assert said(known, f"country_group_{group}", 0.0) == f"country is not {' or '.join(members)}"
        assert said(TASK, f"country_group_{group}", 1.0) == f"country is of group {group}"
    many = TASK.replace("columns = 4", f"columns = 2\ntexts = {[f't{i}' for i in range(40)]}")
    assert said(many, "country_group_0", 1.0).endswith(" or another one")


def test_columns_of_one_category_are_one_reason_that_names_the_text() -> None:
    task = TaskSpec.from_toml(TASK.replace("columns = 4", 'columns = 4\ntexts = ["de", "fr", "it", "jp", "us"]'))
    names = ("amount", *(f"country_group_{k}" for k in range(4)))
    group = crc32(b"fr") % 4
    values, added = np.array([[5.0, 0.0, 0.0, 0.0, 0.0]]), np.array([[0.7, 0.3, 0.3, 0.3, 0.3]])
    values[0, 1 + group], added[0, 1 + group] = 1.0, 0.2
    (reasons,) = ReasonWriter(names, subjects=subjects_of(task)).write(values, added)
    assert [reason.feature for reason in reasons] == [f"country_group_{group}", "amount"]
    assert reasons[0].value == 1.0
    assert reasons[0].contribution == pytest.approx(1.1)
    assert "fr" in reasons[0].text.removeprefix("country is ").split(" or ")
    # What they add is summed: a text that speaks against a positive is not told by the others being absent.
    (reasons,) = ReasonWriter(names, subjects=subjects_of(task)).write(values, added - np.eye(5)[1 + group] * 2.0)
    assert [reason.feature for reason in reasons] == ["amount"]


def test_known_texts_change_neither_columns_nor_what_is_stored_of_the_task() -> None:
    plain, known = (TaskSpec.from_toml(TASK.replace("columns = 4", f"columns = 4{t}")) for t in ("", '\ntexts = ["x"]'))
    assert plain.derived == known.derived
    assert "texts" not in plain.model_dump()["categories"][0]
    assert shape_of(plain) == shape_of(known)


def test_a_reason_names_the_text_that_a_value_compares() -> None:
    task = TASK.replace("[model]", "[values]\nis_pro = \"plan == 'pro'\"\nelsewhere = \"home != 'de'\"\n[model]")
    assert [said(task, "is_pro", value) for value in (1.0, 0.0)] == ["plan is pro", "plan is not pro"]
    assert [said(task, "elsewhere", value) for value in (1.0, 0.0)] == ["home is not de", "home is de"]


def test_a_text_has_the_smoothed_share_of_its_known_labels() -> None:
    """Never of one that is not known yet; what is new has the prior's share."""
    task = TaskSpec.from_toml(TASK)
    engine = engine_of(task, MemoryFeatureStore())

    def share(shop: str, ts: float) -> float:
        x = engine.process(events(["de"], [shop], [ts])).x
        return float(x[0, engine.features.index("shop.target_share_ever")])

    assert share("a", T0) == pytest.approx(0.1)
    labels = np.column_stack([[1.0, 1.0, 0.0], np.ones(3)])
    known_at = T0 + np.array([DAY, 2 * DAY, 3 * DAY])
    engine.apply("shop.labels", UpdateBatch(["1", "2", "3"], ["a", "a", "b"], known_at, labels))
    assert share("a", T0 + 400 * DAY) == pytest.approx((2 + 0.3) / 5)
    assert share("b", T0 + 400 * DAY) == pytest.approx((0 + 0.3) / 4)
    assert share("new", T0 + 400 * DAY) == pytest.approx(0.1)
    assert shape_of(task).secondary == ("merchant_id",)
    assert {*columns_of(task).entities} == {"user_id", "merchant_id"}


def test_ratios_are_of_the_windows_and_keep_nothing_in_a_row() -> None:
    task, bare = TaskSpec.from_toml(TASK), TaskSpec.from_toml(BARE)
    engine = engine_of(task, MemoryFeatureStore())
    ts = [T0, T0 + 5 * DAY, T0 + 5 * DAY + 60, T0 + 50 * DAY]
    columns = engine.process(events(["de"] * 4, ["a"] * 4, ts)).columns
    for op in ("mean", "rate"):
        day, month, ever = (np.asarray(columns[f"user.amount_{op}_{w}"]) for w in ("1d", "30d", "ever"))
        assert columns[f"user.amount_{op}_1d_over_30d"].tolist() == (day / month).tolist()  # type: ignore[union-attr]
        assert columns[f"user.amount_{op}_1d_over_ever"].tolist() == (day / ever).tolist()  # type: ignore[union-attr]
    plans = [build_plan(each.entities, each.derived) for each in (task, bare)]
    assert plans[0].layouts[0] == plans[1].layouts[0]


def test_a_task_without_them_is_as_it_was() -> None:
    task = TaskSpec.from_toml(BARE)
    assert not {"categories", "ratios"} & {*task.model_dump(), *task.model_dump()["entities"][0]["aggregates"][0]}
    whole = TaskSpec.from_toml(TASK)
    assert TaskSpec.model_validate(whole.model_dump()) == whole


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('ratios = ["1d/30d", "24h/ever"]', 'ratios = ["1d/7d"]', "'1d/7d' is not two of the windows"),
        ('ratios = ["1d/30d", "24h/ever"]', 'ratios = ["1d"]', "'1d' is not two of the windows"),
        ('ratios = ["1d/30d", "24h/ever"]', 'ratios = ["soon/1d"]', "is not a duration"),
        ('ops = ["mean", "rate"]', 'ops = ["count"]', r"ratios compare mean, .*for count: rate"),
        ("prior_share = 0.1", "", "encode = 'target' and prior_share"),
        ("columns = 4", "columns = 1", "categories.*columns"),
        ('name = "shop"', 'name = "user"', "an entity is declared twice"),
        ("columns = 4", "colums = 4", "colums"),
    ],
)
def test_what_is_wrong_is_told(old: str, new: str, says: str) -> None:
    with pytest.raises(TaskError, match=f"(?s){says}"):
        TaskSpec.from_toml(TASK.replace(old, new))


def test_missing_texts_do_not_disturb() -> None:
    engine = engine_of(TaskSpec.from_toml(TASK), MemoryFeatureStore())
    block = engine.process(events([None], [None], [T0]))
    assert math.isnan(float(np.asarray(block.columns["shop.target_share_ever"])[0]))
