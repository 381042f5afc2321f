"""What scoring a row and learning an example cost, for every learner and for River's own loop beside it.

Run: ``nice .venv/bin/python -m benchmarks.bench_learners [--features 24]``. Prints a table, then one JSON line. Times
are the best of three passes on one thread, on made-up rows of a noisy linear concept; compiling is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from river import forest, linear_model, optim, preprocessing, tree

from weir.online.learners.base import Learner
from weir.online.learners.factory import LearnerSpec, build_learner

Matrix = NDArray[np.float64]
BATCHES = (1, 64, 512)
LEARNED = (1, 7, 64)
LEARN_KEYS = tuple(f"learn_{block}" for block in LEARNED)
SPECS = {
    "logistic": LearnerSpec(kind="logistic"),
    "bayesian_logistic": LearnerSpec(kind="bayesian_logistic"),
    "adaptive_tree": LearnerSpec(kind="adaptive_tree"),
    "adaptive_forest": LearnerSpec(kind="adaptive_forest"),
    "boosted": LearnerSpec(kind="boosted"),
    "auto": LearnerSpec(kind="auto"),
    "stack": LearnerSpec(
        kind="stack",
        members=(LearnerSpec(kind="logistic"), LearnerSpec(kind="bayesian_logistic"), LearnerSpec(kind="boosted")),
    ),
}
FOREST_ROWS = 600  # River's forest learns about a thousand rows a second


def river_models() -> dict[str, Any]:
    """River's own objects for the learners that have a namesake there."""
    return {
        "logistic": preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.01)),
        "adaptive_tree": tree.HoeffdingAdaptiveTreeClassifier(seed=0),
        "adaptive_forest": forest.ARFClassifier(seed=0),
    }


def per_row_us(run: Callable[[], None], rows: int, passes: int = 3) -> float:
    """Best time of a pass, microseconds a row."""
    best = float("inf")
    for _ in range(passes):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best / rows * 1e6


def stream(n: int, width: int) -> tuple[Matrix, NDArray[np.bool_], Matrix]:
    """Rows of a noisy linear concept."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width))
    return x, x[:, 0] - x[:, 1] + rng.normal(size=n) > 0, np.ones(n)


def ours(spec: LearnerSpec, width: int, rows: int) -> dict[str, float]:
    """Learn ``rows`` in blocks of each size, then score at each batch size."""
    names = tuple(f"f{j:02d}" for j in range(width))
    x, y, w = stream(rows, width)
    warm = build_learner(spec, names)
    warm.learn_many(x, y, w)
    warm.predict_many(x[:8])
    result: dict[str, float] = {}
    for block in LEARNED:
        model = build_learner(spec, names)

        def learn(model: Learner = model, block: int = block) -> None:
            for i in range(0, rows, block):
                model.learn_many(x[i : i + block], y[i : i + block], w[i : i + block])

        result[f"learn_{block}"] = per_row_us(learn, rows, passes=1)
    result["snapshot_kb"] = len(model.snapshot()) / 1024
    for batch in BATCHES:
        scored = x[: max(rows // 4 // batch, 1) * batch]

        def score(scored: Matrix = scored, batch: int = batch) -> None:
            for i in range(0, len(scored), batch):
                model.predict_many(scored[i : i + batch])

        result[f"predict_{batch}"] = per_row_us(score, len(scored))
    return result


def rivers(model: Any, width: int, rows: int) -> dict[str, float]:
    """River's ``learn_one`` and ``predict_proba_one`` over rows that are dicts already."""
    x, y, _ = stream(rows, width)
    dicts = [{f"f{j:02d}": value for j, value in enumerate(row)} for row in x.tolist()]

    def learn() -> None:
        for row, label in zip(dicts, y.tolist(), strict=True):
            model.learn_one(row, label)

    def score() -> None:
        for row in dicts[: rows // 4]:
            model.predict_proba_one(row)

    return {"learn": per_row_us(learn, rows, passes=1), "predict_1": per_row_us(score, rows // 4)}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=24)
    parser.add_argument("--rows", type=int, default=4000)
    args = parser.parse_args()
    river = river_models()
    result: dict[str, dict[str, float]] = {}
    print(f"us a row, F = {args.features}, {args.rows} rows ({FOREST_ROWS} of River's forest)")
    heads = (*LEARN_KEYS, *(f"predict_{b}" for b in BATCHES), "snapshot_kb", "river learn", "river predict")
    print(f"{'':<20}" + "".join(f"{h:>15}" for h in heads))
    for name, spec in SPECS.items():
        result[name] = ours(spec, args.features, args.rows)
        if name in river:
            rows = FOREST_ROWS if name == "adaptive_forest" else args.rows
            result[name] |= {f"river_{k}": v for k, v in rivers(river[name], args.features, rows).items()}
        keys = (*LEARN_KEYS, *(f"predict_{b}" for b in BATCHES), "snapshot_kb", "river_learn", "river_predict_1")
        cells = (f"{result[name][k]:>15.2f}" if k in result[name] else f"{'-':>15}" for k in keys)
        print(f"{name:<20}" + "".join(cells), flush=True)
    print(json.dumps({"benchmark": "learners", "features": args.features, "us_per_row": result}))


if __name__ == "__main__":
    main()
