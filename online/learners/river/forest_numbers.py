"""River's adaptive random forest as numbers, and back: its trees, their drift detectors, their accuracy so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from weir.online.learners.river.numberstream import Reader, Writer
from weir.online.learners.river.tree_numbers import (
    read_adwin,
    read_random,
    read_tree,
    write_adwin,
    write_random,
    write_tree,
)

# Of a tree, by number; ``None`` is the answer of one that has learned nothing.
_ANSWERS: Final = (False, True, None)


def write_forest(out: Writer, forest: Any) -> None:
    """All that a forest has learned."""
    write_random(out, forest._rng)
    out.put(len(forest.data))
    for i, tree in enumerate(forest.data):
        write_tree(out, tree)
        out.put(int(forest._background[i] is not None))
        if forest._background[i] is not None:
            write_tree(out, forest._background[i])
        write_adwin(out, forest._warning_detectors[i])
        write_adwin(out, forest._drift_detectors[i])
        out.put(forest._warning_tracker.get(i, 0), forest._drift_tracker.get(i, 0))
        _write_accuracy(out, forest._metrics[i].cm)


def read_forest(inp: Reader, forest: Any) -> None:
    """Put it into a fresh ``forest`` of the same parameters; raises ``StateError``."""
    read_random(inp, forest._rng)
    if inp.count(forest.n_models) == 0:
        return
    forest._init_ensemble([*range(inp.width)])  # River counts them
    for i, tree in enumerate(forest.data):
        read_tree(inp, tree)
        if inp.count(1):
            forest._background[i] = forest._new_base_model()
            read_tree(inp, forest._background[i])
        forest._warning_detectors[i] = read_adwin(inp, forest.warning_detector)
        forest._drift_detectors[i] = read_adwin(inp, forest.drift_detector)
        for tracker in (forest._warning_tracker, forest._drift_tracker):
            if found := inp.count():
                tracker[i] = found
        _read_accuracy(inp, forest._metrics[i].cm)


def _write_accuracy(out: Writer, cm: Any) -> None:
    out.put(cm.n_samples, cm.total_weight, cm._total_true_positives)
    _write_counts(out, cm.sum_row)
    _write_counts(out, cm.sum_col)
    out.put(len(cm.data))
    for label, row in cm.data.items():
        out.put(_ANSWERS.index(label))
        _write_counts(out, row)


def _read_accuracy(inp: Reader, cm: Any) -> None:
    cm.n_samples, cm.total_weight, cm._total_true_positives = inp.count(), inp.number(), inp.number()
    cm.sum_row, cm.sum_col = _read_counts(inp), _read_counts(inp)
    rows = {_ANSWERS[inp.count(2)]: _read_counts(inp) for _ in range(inp.count(3))}
    cm.data = defaultdict(partial(defaultdict, float), rows)


def _write_counts(out: Writer, counts: Mapping[bool | None, float]) -> None:
    out.put(len(counts))
    for label, count in counts.items():  # in their order: River's answers do not depend on it, the bytes do
        out.put(_ANSWERS.index(label), count)


def _read_counts(inp: Reader) -> defaultdict[bool | None, float]:
    return defaultdict(float, {_ANSWERS[inp.count(2)]: inp.number() for _ in range(inp.count(3))})
