from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.models.graphs import linear_graph, recurrent_graph, text_graph
from weir.models.errors import ModelError
from weir.models.onnx.graph import GraphSpec, check_graph, open_session, run_graph

TWO = "(float[n, 2] x) => (float[n] logit) <int64[1] one = {1}>"


def refused(data: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        check_graph(data)
    return str(caught.value)


def test_a_graph_says_what_it_takes() -> None:
    assert check_graph(recurrent_graph()) == GraphSpec(inputs=3, state=4, embedding=2, opset=18)
    assert check_graph(linear_graph(np.ones(5, np.float32))) == GraphSpec(5, 0, 0, 18)


def test_what_is_no_graph_is_refused() -> None:
    data = recurrent_graph()
    assert "0 bytes" in refused(b"")
    assert "no ONNX graph" in refused(b"not a graph" * 30)
    assert "corrupt or truncated" in refused(data[: len(data) // 2])


def test_no_flipped_byte_passes_as_another_contract() -> None:
    """A flip is refused, or the graph still keeps the contract; it never raises anything else."""
    data, rng = recurrent_graph(), np.random.default_rng(0)
    refusals = 0
    for at in rng.integers(0, len(data), 60).tolist():
        flipped = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        try:
            check_graph(flipped)
        except ModelError:
            refusals += 1
    assert refusals > 10


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("g (float[n, 2] y) => (float[n] logit) { z = ReduceSum<keepdims = 0>(y) logit = Identity(z) }", "inputs are"),
        (f"g {TWO.replace('logit', 'score')} {{ s = ReduceSum<keepdims = 0>(x, one) score = Identity(s) }}", "outputs"),
        (f"g {TWO.replace('float[n] l', 'double[n] l')} {{ s = ReduceSum<keepdims=0>(x, one) logit = Cast<to=11>(s) }}",
         "logit is tensor\\(double\\); it must be float32"),
        (f"g {TWO.replace('[n] l', '[n, 1] l')} {{ logit = ReduceSum(x, one) }}", "logit has shape"),
        (f"g {TWO.replace('[n, 2]', '[4, 2]')} {{ logit = ReduceSum<keepdims = 0>(x, one) }}", "dynamic first axis"),
        (f"g {TWO.replace('[n, 2]', '[n, d]')} {{ logit = ReduceSum<keepdims = 0>(x, one) }}", "fixed number"),
        ("g (float[n, 2] x, float[n, 3] state) => (float[n] logit) <int64[1] one = {1}>"
         "{ logit = ReduceSum<keepdims = 0>(x, one) }", "state takes 3 floats and state_out gives 0"),
        (f"g {TWO} {{ a = Exp(x) logit = ReduceSum<keepdims = 0>(a, one) }}", "logit is not finite where inputs reach"),
        (f"g {TWO} {{ s = ReduceSum<keepdims = 0>(x, one) m = ReduceMax<keepdims = 0>(x) logit = Sub(s, m) }}",
         "depends on the other rows"),
        ("g (float[n, 2] x) => (float[n] logit) <int64[1] rows = {0}, int64[1] one = {1}> { t = Tanh(x) "
         "s = ReduceSum<keepdims = 0>(t, one) m = ReduceMean(s, rows) d = Sub(s, m) q = Mul(d, d) "
         "v = ReduceMean(q, rows) r = Sqrt(v) logit = Div(d, r) }", "depends on the other rows"),
        (f"g {TWO} {{ u = RandomUniformLike<seed = 1.0>(x) v = Add(x, u) logit = ReduceSum<keepdims = 0>(v, one) }}",
         "other outputs when run twice"),
    ],
)  # fmt: skip
def test_a_graph_that_breaks_the_contract_is_refused(body: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_graph(text_graph(body))


def test_operators_of_strangers_and_weights_elsewhere_are_refused() -> None:
    import onnx

    strange = '<ir_version: 10, opset_import: ["" : 18, "org.evil" : 1]>'
    body = f"g {TWO} {{ a = org.evil.Call(x) logit = ReduceSum<keepdims = 0>(a, one) }}"
    assert "operators of ['org.evil'] are not available" in refused(text_graph(body, strange))
    model = onnx.load_model_from_string(recurrent_graph())
    weights = model.graph.initializer[0]
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.ClearField("raw_data")
    weights.external_data.add(key="location", value="/etc/passwd")
    assert "weights lie outside" in refused(model.SerializeToString())


@pytest.mark.parametrize("place", ["constant", "branch", "sparse"])
def test_weights_elsewhere_are_found_wherever_they_hide(place: str) -> None:
    import onnx

    body = f"""g {TWO} {{
        c = Constant<value = float[2] {{1, 1}}>() yes = Constant<value = bool {{1}}>()
        w = If<then_branch = t () => (float[2] a) {{ a = Constant<value = float[2] {{1, 1}}>() }},
               else_branch = e () => (float[2] b) {{ b = Constant<value = float[2] {{2, 2}}>() }}>(yes)
        v = Mul(c, w) y = Mul(x, v) logit = ReduceSum<keepdims = 0>(y, one) }}"""
    model = onnx.load_model_from_string(text_graph(body))
    check_graph(model.SerializeToString())
    hidden = model.graph.node[0].attribute[0].t
    if place == "branch":
        hidden = model.graph.node[2].attribute[0].g.node[0].attribute[0].t
    if place == "sparse":
        hidden = model.graph.node[2].attribute[0].g.sparse_initializer.add().values
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="/etc/passwd")
    assert "weights lie outside" in refused(model.SerializeToString())


def test_a_graph_that_never_ends_is_stopped() -> None:
    body = f"""g {TWO} {{
        n = Constant<value = int64 {{1000000000000}}>() yes = Constant<value = bool {{1}}>()
        s = ReduceSum<keepdims = 0>(x, one)
        logit = Loop<body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w) {{ d = Identity(c) w = Neg(v) }}>
            (n, yes, s) }}"""
    session = open_session(text_graph(body))
    with pytest.raises(ModelError, match=r"takes longer than 0\.2 s"):
        run_graph(session, np.ones((3, 2), np.float32), limit_s=0.2)


def test_too_wide_is_refused() -> None:
    assert "embedding is 65 wide; the limit is 64" in refused(recurrent_graph(embedding=65))


# --- from torch


@pytest.fixture(scope="module")
def encoder() -> Iterator[Any]:
    import torch

    from weir.models.encoder import Encoder, EncoderConfig

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Encoder(EncoderConfig(("a", "b", "c"), hidden=8, embedding=2, knots=3))
        made.normalise.low.normal_()
        made.normalise.slope.normal_()
        made.normalise.log[0] = 1
    yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(encoder: Any) -> bytes:
    from weir.models.onnx.export import export_encoder

    encoder.train()
    data = export_encoder(encoder)
    assert encoder.training, "the mode is as before"
    return data


def test_onnx_is_torch(encoder: Any, exported: bytes) -> None:
    import torch

    assert check_graph(exported) == GraphSpec(3, 8, 2, 18)
    rng, state, session = np.random.default_rng(0), np.zeros((50, 8), np.float32), open_session(exported)
    encoder.eval()
    carried = torch.zeros(50, 8)
    with torch.no_grad():
        for _ in range(30):  # states are carried on by each of the two alone
            x = (rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-3, 7, size=(50, 1))).astype(np.float32)
            out = run_graph(session, x, state)
            logit, carried, embedding = encoder.step(torch.from_numpy(x), carried)
            state = out["state_out"]
            np.testing.assert_allclose(out["logit"], logit.numpy(), atol=1e-4)
            np.testing.assert_allclose(state, carried.numpy(), atol=1e-4)
            np.testing.assert_allclose(out["embedding"], embedding.numpy(), atol=1e-4)


def test_the_same_weights_make_the_same_bytes(encoder: Any, exported: bytes) -> None:
    from weir.models.onnx.export import export_encoder

    assert export_encoder(encoder) == exported


def test_a_function_without_translation_is_named(encoder: Any) -> None:
    import torch

    from weir.models.onnx.export import export_encoder

    class Strange(type(encoder)):  # type: ignore[misc]
        def step(self, x: Any, state: Any) -> tuple[Any, Any, Any]:
            logit, after, embedding = super().step(x, state)
            return torch.erfinv(logit), after, embedding

    with pytest.raises(
        ModelError, match=r"no translation of 'erfinv' to ONNX is known; add it to models/onnx/translate\.py"
    ):
        export_encoder(Strange(encoder.config))


def test_an_encoder_without_embedding_and_without_pieces() -> None:
    from weir.models.encoder import Encoder, EncoderConfig
    from weir.models.onnx.export import export_encoder

    assert check_graph(export_encoder(Encoder(EncoderConfig(("a",), hidden=3, knots=0)))) == GraphSpec(1, 3, 0, 18)


def test_a_graph_of_other_weights_is_found_out(encoder: Any, exported: bytes) -> None:
    import torch

    from weir.models.onnx.export import check_export

    encoder.eval()
    assert check_export(encoder, exported).state == 8
    with torch.no_grad():
        encoder.out.bias += 0.01
        try:
            with pytest.raises(ModelError, match=r"logit differs from torch by 0\.01; the limit is 0\.0001"):
                check_export(encoder, exported)
        finally:
            encoder.out.bias -= 0.01
