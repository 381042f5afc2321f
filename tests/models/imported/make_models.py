"""Makes the models of this folder, each by its own library: a graph, a map, 16 rows and what the library says of them.

The libraries are not among Weir's: the files are kept, and made again only to add a model or follow a new exporter.

    python -m venv /tmp/makers
    /tmp/makers/bin/pip install skl2onnx onnxmltools xgboost catboost lightgbm scikit-learn torch onnxscript
    /tmp/makers/bin/python tests/models/imported/make_models.py
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FEATURES = ("amount", "ratio", "hour", "country_code")
COUNTRIES = ("DE", "FR", "NL")
NUMBERS = 'X = ["amount", "ratio", "hour"]'
LIMIT = 8_000


def data(n: int, seed: int, gaps: bool = False):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.lognormal(3, 1, n), rng.normal(size=n), rng.integers(0, 24, n), rng.integers(0, 4, n)])
    x = x.astype(np.float32)
    odds = 0.02 * x[:, 0] + x[:, 1] - 0.05 * x[:, 2] + (x[:, 3] == 1) - 1
    y = rng.random(n) < 1 / (1 + np.exp(-odds))
    if gaps:
        x[rng.random(n) < 0.2, 1] = -0.0  # as a missing value is logged
    return x, y


X, Y = data(600, 1)
GAPS, GAPS_Y = data(600, 2, gaps=True)
ROWS = data(16, 3)[0]
GAP_ROWS = data(16, 4, gaps=True)[0]


def with_nan(x):
    """What trees are trained on, and see in `missing = nan`."""
    seen = x.astype(np.float64)
    seen[(x == 0) & np.signbit(x)] = np.nan
    return seen[:, :3]


def keep(name: str, onnx: bytes, text: str, rows, expected) -> None:
    assert len(onnx) <= LIMIT, f"{name}: {len(onnx)} bytes"
    (HERE / f"{name}.onnx").write_bytes(onnx)
    shortest = [[float(str(v)) for v in row] for row in rows]
    said = {"map": text, "rows": shortest, "expected": [round(float(p), 7) for p in expected]}
    (HERE / f"{name}.json").write_text(json.dumps(said) + "\n")
    print(f"{name:28} {len(onnx):6,} bytes, probabilities {min(expected):.3f} to {max(expected):.3f}")


def scikit_learn() -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import BaggingClassifier, GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    numbers = [("X", FloatTensorType([None, 3]))]
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:, :3], Y.astype(int))
    expected = logistic.predict_proba(ROWS[:, :3])[:, 1]
    made = to_onnx(logistic, initial_types=numbers)
    keep("sklearn_zipmap", made.SerializeToString(), f"[inputs]\n{NUMBERS}\n", ROWS, expected)
    labels = select_model_inputs_outputs(made, outputs=["label"]).SerializeToString()
    keep("sklearn_labels", labels, f"[inputs]\n{NUMBERS}\n", ROWS, logistic.predict(ROWS[:, :3]))

    words = np.where(Y, "fraud", "ok")
    country = np.array([*COUNTRIES, "other"], object)
    columns = ColumnTransformer([("numbers", StandardScaler(), [0, 1]), ("country", OneHotEncoder(), [2])])
    table = np.column_stack([X[:, 0], X[:, 1], country[X[:, 3].astype(int)]]).astype(object)
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, words)
    rows = np.column_stack([ROWS[:, 0], ROWS[:, 1], country[ROWS[:, 3].astype(int)]]).astype(object)
    types = [("amount", FloatTensorType([None, 1])), ("ratio", FloatTensorType([None, 1])),
             ("country", StringTensorType([None, 1]))]  # fmt: skip
    made = to_onnx(pipeline, initial_types=types, options={"zipmap": False})
    country_of = f'{{ feature = "country_code", categories = {list(COUNTRIES)}, missing = "other" }}'
    text = f'positive = "fraud"\n[inputs]\namount = "amount"\nratio = "ratio"\ncountry = {country_of}\n'
    keep("sklearn_strings", made.SerializeToString(), text, ROWS, pipeline.predict_proba(rows)[:, 0])
    labels = select_model_inputs_outputs(made, outputs=["label"]).SerializeToString()
    keep("sklearn_string_labels", labels, text, ROWS, pipeline.predict(rows) == "fraud")

    forest = RandomForestClassifier(4, max_depth=3, random_state=0).fit(X[:, :3].astype(np.float64), Y.astype(int))
    made = to_onnx(forest, initial_types=[("X", DoubleTensorType([None, 3]))], options={"zipmap": False})
    keep("sklearn_double", made.SerializeToString(), f"[inputs]\n{NUMBERS}\n", ROWS,
         forest.predict_proba(ROWS[:, :3].astype(np.float64))[:, 1])  # fmt: skip

    boosted = GradientBoostingClassifier(n_estimators=6, max_depth=2, random_state=0).fit(X[:, :3], words)
    made = to_onnx(boosted, initial_types=numbers)
    keep("sklearn_boosted", made.SerializeToString(), f'positive = "fraud"\n[inputs]\n{NUMBERS}\n', ROWS,
         boosted.predict_proba(ROWS[:, :3])[:, 0])  # fmt: skip

    # Its trees know the classes by number, the whole by name.
    trees = DecisionTreeClassifier(max_depth=2, random_state=0)
    bag = BaggingClassifier(trees, n_estimators=2, random_state=0).fit(X[:, :3], words)
    made = to_onnx(bag, initial_types=numbers, options={"zipmap": False})
    keep("sklearn_bagging", made.SerializeToString(), f'positive = "fraud"\n[inputs]\n{NUMBERS}\n', ROWS,
         bag.predict_proba(ROWS[:, :3])[:, 0])  # fmt: skip

    network = make_pipeline(StandardScaler(), MLPClassifier((6,), random_state=0, max_iter=300)).fit(X[:, :3], Y)
    made = to_onnx(network, initial_types=numbers, options={"zipmap": False})
    keep("sklearn_network", made.SerializeToString(), f"[inputs]\n{NUMBERS}\n", ROWS,
         network.predict_proba(ROWS[:, :3])[:, 1])  # fmt: skip

    bayes = GaussianNB().fit(X[:, :3], Y.astype(int))
    made = to_onnx(bayes, initial_types=numbers, options={"zipmap": False})
    keep("sklearn_bayes", made.SerializeToString(), f"clip = 1e5\n[inputs]\n{NUMBERS}\n", ROWS,
         bayes.predict_proba(ROWS[:, :3])[:, 1])  # fmt: skip

    whole = X[:, [2, 3]].astype(np.int64)
    trees = RandomForestClassifier(3, max_depth=3, random_state=0).fit(whole, Y.astype(int))
    made = to_onnx(trees, initial_types=[("X", Int64TensorType([None, 2]))], options={"zipmap": False})
    keep("sklearn_integers", made.SerializeToString(), '[inputs]\nX = ["hour", "country_code"]\n', ROWS,
         trees.predict_proba(ROWS[:, [2, 3]].astype(np.int64))[:, 1])  # fmt: skip

    machine = make_pipeline(StandardScaler(), SVC(C=0.05, probability=True, random_state=0)).fit(X[:60, :3], Y[:60])
    made = to_onnx(machine, initial_types=numbers, options={"zipmap": False})
    keep("sklearn_svc", made.SerializeToString(), f"[inputs]\n{NUMBERS}\n", ROWS,
         machine.predict_proba(ROWS[:, :3])[:, 1])  # fmt: skip


def boosting() -> None:
    import catboost
    import lightgbm
    import onnx
    import xgboost
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("X", FloatTensorType([None, 3]))]
    text = f"missing = nan\n[inputs]\n{NUMBERS}\n"
    x, rows = with_nan(GAPS), with_nan(GAP_ROWS)
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3).fit(x, GAPS_Y.astype(int))
    keep("xgboost", convert_xgboost(model, initial_types=types).SerializeToString(), text, GAP_ROWS,
         model.predict_proba(rows)[:, 1])  # fmt: skip
    model = lightgbm.LGBMClassifier(n_estimators=6, num_leaves=6, verbose=-1).fit(x, GAPS_Y.astype(int))
    keep("lightgbm", convert_lightgbm(model, initial_types=types).SerializeToString(), text, GAP_ROWS,
         model.predict_proba(rows)[:, 1])  # fmt: skip
    made = convert_lightgbm(model, initial_types=types, zipmap=False)
    keep("lightgbm_tensor", made.SerializeToString(), text, GAP_ROWS, model.predict_proba(rows)[:, 1])
    model = catboost.CatBoostClassifier(iterations=4, depth=2, verbose=0, allow_writing_files=False)
    model.fit(X[:, :3], Y.astype(int))
    with tempfile.TemporaryDirectory() as folder:
        model.save_model(f"{folder}/model.onnx", format="onnx")
        made = onnx.load(f"{folder}/model.onnx")
    del made.metadata_props[:]  # settings of the training
    keep("catboost", made.SerializeToString(), '[inputs]\nfeatures = ["amount", "ratio", "hour"]\n', ROWS,
         model.predict_proba(ROWS[:, :3])[:, 1])  # fmt: skip


def torch_models() -> None:
    import torch

    def net(last: int, *more: torch.nn.Module) -> torch.nn.Sequential:
        torch.manual_seed(0)
        scale = torch.nn.BatchNorm1d(3)
        layers = torch.nn.Sequential(scale, torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, last))
        adam, x, y = torch.optim.Adam(layers.parameters(), 0.02), torch.tensor(X[:, :3]), torch.tensor(Y)
        for _ in range(300):
            out = layers(x)
            odds = out[:, 0] if last == 1 else out[:, 1] - out[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, y.float())
            adam.zero_grad()
            loss.backward()
            adam.step()
        return torch.nn.Sequential(layers, *more).eval()

    def export(model, x, opset: int, dynamic: bool) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
            torch.onnx.export(model, (x,), f"{folder}/m.onnx", dynamo=True, opset_version=opset, dynamic_shapes=shapes,
                              input_names=["X"], output_names=["out"], external_data=False, verbose=False)  # fmt: skip
            import onnx

            held = onnx.load(f"{folder}/m.onnx")
            for part in (*held.graph.node, *held.graph.value_info, *held.graph.input, *held.graph.output):
                del part.metadata_props[:]  # where in the source a node comes from
            for node in held.graph.node:
                node.doc_string = ""
            return held.SerializeToString()

    rows = torch.tensor(ROWS[:, :3])

    def said(model, x=rows):
        with torch.no_grad():
            return model(x).double().numpy()

    text = f"[inputs]\n{NUMBERS}\n"
    model = net(1)
    keep("torch_logit", export(model, rows, 18, dynamic=True), f'output = "logit"\n{text}', ROWS,
         1 / (1 + np.exp(-said(model)[:, 0])))  # fmt: skip
    model = net(1, torch.nn.Sigmoid(), torch.nn.Flatten(0)).double()
    keep("torch_double", export(model, rows.double(), 18, dynamic=True), text, ROWS, said(model, rows.double()))
    model = net(2, torch.nn.Softmax(1))
    keep("torch_one_row", export(model, rows[:1], 20, dynamic=False), text, ROWS, said(model)[:, 1])

    class Stuck(torch.nn.Module):
        """Puts a constant of one row beside what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.of = net(1)

        def forward(self, x):
            return torch.softmax(torch.cat([torch.zeros(1, 1), self.of(x)], 1), 1)

    model = Stuck().eval()
    keep("torch_stuck_at_one_row", export(model, rows[:1], 18, dynamic=False), text, ROWS,
         1 / (1 + np.exp(-said(model.of)[:, 0])))  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in (scikit_learn, boosting, torch_models):
        each()
    total = sum(path.stat().st_size for path in HERE.iterdir() if path.suffix in (".onnx", ".json"))
    print(f"{total:,} bytes together")
