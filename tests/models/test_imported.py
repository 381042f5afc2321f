"""Models of seven libraries, as they were exported: served, they say what the library said. And what is no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.models.graphs import text_graph
from tests.models.imported_models import FOLDER, NAMES, kept, map_of
from weir.models.errors import ModelError
from weir.models.onnx.adopt import adopt, largest_difference
from weir.models.onnx.foreign import read_foreign
from weir.models.onnx.foreign_inputs import describe
from weir.models.onnx.graph import check_graph

MAP = '[inputs]\nX = ["amount", "ratio"]\n'


def test_the_kept_models_are_small_and_of_all_libraries() -> None:
    sizes = [path.stat().st_size for path in FOLDER.iterdir() if path.suffix in (".onnx", ".json")]
    assert max(sizes) <= 8_000
    assert sum(sizes) <= 100_000
    assert {name.split("_")[0] for name in NAMES} == {"sklearn", "xgboost", "lightgbm", "catboost", "torch"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32) | st.sampled_from([-0.0, 0.0, -1e-45]), min_size=3, max_size=3),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from(["xgboost", "sklearn_strings", "torch_stuck_at_one_row"]),
)
def test_whatever_the_rows_it_says_what_the_original_says(rows: list[list[float]], name: str) -> None:
    held = kept(name)
    foreign = read_foreign(held.onnx, held.map)
    assert largest_difference(foreign, adopt(foreign), np.array(rows, np.float32)) <= 1e-6


def graph(body: str, kinds: str = "float[n, 2] X", out: str = "float[n] p", opset: int = 18) -> bytes:
    return text_graph(
        f"g ({kinds}) => ({out}) {{ {body} }}", f'<ir_version: 8, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>'
    )


SUM = "s = ReduceSum <keepdims = 0> (X, axis)"
AXIS = "axis = Constant <value_ints = [1]> () "


def edited(data: bytes, change: Any) -> bytes:
    model = onnx.load_model_from_string(data)
    change(model)
    return bytes(model.SerializeToString())


def newer(model: Any) -> None:
    model.opset_import[0].version = 99


def outside(model: Any) -> None:
    made = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(made)


def claims(model: Any) -> None:
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[1 << 29], raw_data=b"1234"))
    model.graph.node.insert(0, helper.make_node("Identity", ["w"], ["unused"]))
    model.graph.output.append(helper.make_tensor_value_info("unused", 1, [1 << 29]))


GOOD = graph(f"{AXIS} {SUM} p = Sigmoid(s)")
TEXTS, WHOLE, LINE = kept("sklearn_strings"), kept("sklearn_integers"), kept("sklearn_zipmap")
HOSTILE = {
    "nothing": (b"", MAP, "empty"),
    "a pickle": (b"\x80\x05\x95\x10\x00\x00\x00sklearn", MAP, "no ONNX graph|hold no graph"),
    "a page": (b"<!doctype html><html>404</html>", MAP, "no ONNX graph|hold no graph"),
    "cut": (GOOD[:-20], MAP, "truncated|cannot load"),
    "an operator of its own": (
        text_graph("g (float[n, 2] X) => (float[n] p) { p = mine.Magic(X) }",
                   '<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>'),
        MAP, "operators of .'mine'. are not available"),
    "weights elsewhere": (edited(GOOD, outside), MAP, "outside the graph's file"),
    "two gigabytes": (edited(GOOD, claims), 'output_name = "p"\n' + MAP, "cannot load"),
    "from the future": (
        edited(GOOD, newer), MAP, r"opset 99 of ai.onnx, this ONNX Runtime knows up to \d+: export it"),
    "trees from the future": (
        edited(kept("xgboost").onnx, newer), kept("xgboost").text,
        r"opset 99 of ai.onnx.ml, this ONNX Runtime knows up to \d+: export it with target_opset"),
    "a regressor": (
        graph(f"{AXIS} {SUM} ten = Constant <value_float = 10.0> () p = Mul(s, ten)"), MAP,
        "is 20, no probability .* a regressor cannot be served"),
    "four classes": (
        graph("c = Concat <axis = 1> (X, X) p = Softmax(c)", out="float[n, 4] p"), MAP, "of 4 classes; only two"),
    "an image": (graph("p = Identity(X)", "float[n, 3, 8, 8] X", "float[n, 3, 8, 8] p"), MAP, "has 4 axes"),
    "too few features": (GOOD, '[inputs]\nX = "amount"\n', "inputs.X has 1 features; the graph takes 2 columns"),
    "another input": (GOOD, '[inputs]\nx = ["amount", "ratio"]\n', "names x; the graph takes X"),
    "no text": (
        GOOD, '[inputs]\nX = ["amount", { feature = "ratio", categories = ["a"] }]\n', "takes float: leave them out"),
    "a text": (
        TEXTS.onnx, '[inputs]\namount = "amount"\nratio = "ratio"\ncountry = "country_code"\n',
        "the graph takes a text: give categories"),
    "nan for whole numbers": (
        WHOLE.onnx, 'missing = nan\n[inputs]\nX = ["amount", "hour"]\n', "missing is nan, which int64 cannot hold"),
    "nan for a line": (
        LINE.onnx, "missing = nan\n" + LINE.text, "is nan for 1 of 3 rows: .* give missing = NUMBER"),
    "no such class": (
        TEXTS.onnx, TEXTS.text.replace('"fraud"', '"bad"'),
        "positive is 'bad'; the classes of the graph are 'fraud', 'ok'"),
    "no class said": (TEXTS.onnx, TEXTS.text.replace('positive = "fraud"\n', ""), "not clear which class"),
    "no such output": (GOOD, 'output_name = "q"\n' + MAP, "output_name is 'q'; the graph gives p"),
    "overflow": (
        graph(f"{AXIS} {SUM} e = Exp(s) one = Constant <value_float = 1.0> () d = Add(e, one) p = Div(e, d)"), MAP,
        "not finite where inputs reach .*, or give clip = NUMBER"),
    "stuck at three rows": (
        graph("z = Constant <value = float[3, 1] {0, 0, 0}> () c = Concat <axis = 1> (X, z) "
              "k = Constant <value_ints = [0]> () g = Gather <axis = 1> (c, k) p = Sigmoid(g)",
              "float[3, 2] X", "float[3, 1] p"),
        MAP, "exactly 3 rows at once"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_served_is_refused_in_words(name: str) -> None:
    data, text, words = HOSTILE[name]
    with pytest.raises(ModelError, match=words) as told:
        adopt(read_foreign(data, map_of(text)))
    assert len(str(told.value)) < 700


def test_an_unknown_feature_is_met_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"inputs.X: 'amont' is none of the 2 .* did you mean 'amount'"):
        map_of('[inputs]\nX = ["amont", "ratio"]').check_features(["amount", "ratio"])


def test_a_graph_of_a_newer_ir_version_is_served() -> None:
    data = edited(GOOD, lambda model: setattr(model, "ir_version", 99))
    assert check_graph(adopt(read_foreign(data, map_of(MAP)))).inputs == 2


def test_a_model_that_would_be_served_otherwise_is_refused() -> None:
    held = kept("sklearn_zipmap")
    foreign = read_foreign(held.onnx, held.map)
    other = read_foreign(held.onnx, held.map.model_copy(update={"positive": 0}))
    with pytest.raises(ModelError, match=r"from the probability of the original on row .* the limit is 0\.0001"):
        largest_difference(foreign, adopt(other), held.x)


@pytest.mark.parametrize(
    ("kind", "labels", "positive"),
    [("int64s", [1, 0], 1), ("int64s", [0, 1], 1), ("strings", ["ok", "bad"], "bad"), ("strings", ["a", "b"], "a")],
)
def test_maps_of_classes_in_any_order_say_what_their_columns_say(
    kind: str, labels: list[Any], positive: int | str
) -> None:
    """ONNX Runtime sorts a map by its classes; the columns stay as the graph names them."""
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])
    gives = helper.make_value_info("p", helper.make_sequence_type_proto(helper.make_map_type_proto(
        TensorProto.INT64 if kind == "int64s" else TensorProto.STRING,
        helper.make_tensor_type_proto(TensorProto.FLOAT, None),
    )))  # fmt: skip
    nodes = [
        helper.make_node("Softmax", ["X"], ["c"], axis=1),
        helper.make_node("ZipMap", ["c"], ["p"], domain="ai.onnx.ml"),
    ]
    nodes[1].attribute.append(helper.make_attribute(f"classlabels_{kind}", labels))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [gives]), opset_imports=opsets, ir_version=8)
    said = f"positive = {positive!r}\n{MAP}"
    foreign = read_foreign(bytes(model.SerializeToString()), map_of(said))
    x = np.array([[0.5, -1.0], [2.0, 2.5], [0.0, 3.0]], np.float32)
    column = labels.index(positive)
    want = (x[:, column] - x[:, 1 - column]).astype(np.float64)
    np.testing.assert_allclose(foreign.says(x), want, atol=1e-5)
    assert largest_difference(foreign, adopt(foreign), x) <= 1e-6


def test_the_same_model_makes_the_same_bytes() -> None:
    held = kept("xgboost")
    assert adopt(read_foreign(held.onnx, held.map)) == adopt(read_foreign(held.onnx, held.map))


def test_a_map_begins_with_what_the_graph_takes() -> None:
    said = describe(onnx.load_model_from_string(kept("sklearn_strings").onnx))
    assert map_of(said).inputs["country"][0].categories == ("TEXT OF 0",)
    assert 'categories = ["TEXT OF 0"]' in said
    assert list(map_of(said).inputs) == ["amount", "ratio", "country"]


def test_the_map_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "IMPORT.md").read_text()
    block = next(part for part in page.split("```toml\n")[1:] if part.startswith("positive")).partition("```")[0]
    said = map_of(block)
    assert said.features == ("amount", "user.amount_mean_1d", "ratio", "hour", "country_code")
    assert said.fill(said.inputs["X"][2]) == -1.0
    assert np.isnan(said.fill(said.inputs["hour"][0]))


def test_a_graph_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    data = graph(
        "most = Constant <value = int64 {1000000000}> () go = Constant <value = bool {1}> () "
        "p = Loop (most, go, X) <body = b (int64 i, bool c, float[n, 2] h) => (bool d, float[n, 2] k) "
        "{ d = Identity(c) k = Sin(h) }>", out="float[n, 2] p",
    )  # fmt: skip
    monkeypatch.setattr("weir.models.onnx.foreign.RUN_S", 0.05)
    with pytest.raises(ModelError, match=r"takes longer than 0\.05 s"):
        read_foreign(data, map_of(MAP))


def test_what_branches_within_branches_take_from_outside_is_there() -> None:
    """A weight, and a value that only the inner branch asks for."""
    data = graph(
        f"zero = Constant <value_float = 0.0> () {AXIS} {SUM} all = ReduceMax <keepdims = 0> (X) go = Less (all, all) "
        "p = If (go) <then_branch = a () => (float[n] y) { y = Sigmoid(s) }, else_branch = b () => (float[n] z) "
        "{ z = If (go) <then_branch = c () => (float[n] u) { u = Sigmoid(zero) }, else_branch = d () => (float[n] v) "
        "{ t = Mul(s, w) v = Sigmoid(t) }> }>",
    )  # fmt: skip
    data = edited(data, lambda m: m.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "w")))
    foreign = read_foreign(data, map_of(MAP))
    rows = np.array([[1.0, 2.0], [-3.0, 0.5]], np.float32)
    assert foreign.says(rows) == pytest.approx([1.5, -1.25], abs=1e-6)
    assert largest_difference(foreign, adopt(foreign), rows) <= 1e-6
