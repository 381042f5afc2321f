"""River's trees and forests as one flat list of numbers, and back into a fresh model of the same parameters.

``_NODES`` and the lists next to it name all that is learned: classes and their fields. Settings, prototypes and
generators come from the fresh model, a feature is its column number, a class is 0 or 1. So a snapshot has no place for
the name of anything: whatever its numbers are, they become trees or a ``StateError``. Each object that is read uses up
numbers, and nodes and levels are bounded, so a snapshot of n bytes never takes more than a fixed multiple of n.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from river.proba import Gaussian
from river.stats import Mean, Var
from river.tree import HoeffdingAdaptiveTreeClassifier
from river.tree.nodes.arf_htc_nodes import RandomLeafMajorityClass, RandomLeafNaiveBayes, RandomLeafNaiveBayesAdaptive
from river.tree.nodes.branch import NumericBinaryBranch
from river.tree.nodes.hatc_nodes import AdaLeafClassifier, AdaNumBinaryBranchClass
from river.tree.splitter import GaussianSplitter

from weir.online.errors import StateError
from weir.online.learners.river import adwin_numbers as adwin
from weir.online.learners.river.numberstream import Number, Reader, Writer

# Of nodes below each other, alternates included; ``max_depth`` is far lower.
_MOST_LEVELS: Final = 150
# Of a tree: ``max_depth`` 16 in full, with as many alternates.
_MOST_NODES: Final = 1 << 18
# Of a Mersenne twister.
_WORDS: Final = 624


class _Field(NamedTuple):
    """How one kind of field goes out, and comes in."""

    write: Callable[[Writer, Any], None]
    read: Callable[[Reader], Any]


def _write_stats(out: Writer, stats: dict[bool, Number]) -> None:
    out.put(len(stats))
    for label, weight in stats.items():  # in their order: the bits of a sum depend on it
        out.put(int(label), weight)


def _read_stats(inp: Reader) -> dict[bool, Number]:
    return {inp.label(): inp.number() for _ in range(inp.count(2))}


def _write_splitters(out: Writer, splitters: dict[str, Any] | None) -> None:
    out.put(0 if splitters is None else 1 + len(splitters))  # 0: a leaf that watches nothing any more
    for name, splitter in (splitters or {}).items():
        if type(splitter) is not GaussianSplitter:
            raise StateError(f"a leaf holds a {type(splitter).__qualname__}, want a GaussianSplitter")
        out.features([name])
        out.put(len(splitter._att_dist_per_class))
        for label, gaussian in splitter._att_dist_per_class.items():
            var = gaussian._var
            low, high = splitter._min_per_class[label], splitter._max_per_class[label]
            out.put(int(label), low, high, var.mean.n, var.mean._mean, var._S)


def _read_splitters(inp: Reader) -> dict[str, Any] | None:
    found = inp.count(1 + inp.width)
    return {inp.feature(): _read_splitter(inp) for _ in range(found - 1)} if found else None


def _read_splitter(inp: Reader) -> Any:
    splitter: Any = GaussianSplitter(inp.tree.splitter.n_splits)
    for _ in range(inp.count(2)):
        label = inp.label()
        splitter._min_per_class[label], splitter._max_per_class[label] = inp.number(), inp.number()
        # Without its generator, which River seeds from the system: only `sample` uses it, and nobody here samples.
        gaussian: Any = Gaussian.__new__(Gaussian)
        gaussian.seed, gaussian._rng, gaussian._var = None, None, Var(ddof=1)
        gaussian._var.mean, gaussian._var._S = _read_mean(inp), inp.number()
        splitter._att_dist_per_class[label] = gaussian
    return splitter


def _read_mean(inp: Reader) -> Any:
    mean: Any = Mean()
    mean.n, mean._mean = inp.number(), inp.number()
    return mean


def write_adwin(out: Writer, detector: Any) -> None:
    """What an ADWIN learned."""
    out.put(*adwin.numbers_of(detector))


def read_adwin(inp: Reader, prototype: Any) -> Any:
    """An ADWIN with the parameters of ``prototype``."""
    made = prototype.clone()
    adwin.fill(made, inp.number)
    return made


def _write_indices(out: Writer, names: list[str]) -> None:
    out.put(len(names))
    out.features(names)


def _read_indices(inp: Reader) -> list[str]:
    return [inp.feature() for _ in range(inp.count(inp.width))]


def _write_node(out: Writer, node: Any) -> None:
    kind = type(node)
    if kind not in _NODES:
        raise StateError(f"a tree holds a {kind.__qualname__}, which no snapshot can hold")
    out.put(_KINDS.index(kind))
    for name, field in _NODES[kind].items():
        field.write(out, getattr(node, name))


def _read_node(inp: Reader) -> Any:
    kind = _KINDS[inp.count(len(_KINDS) - 1)]
    inp.nodes_left -= 1
    inp.level += 1
    if inp.level > _MOST_LEVELS or inp.nodes_left < 0:
        raise StateError(f"a tree of more than {_MOST_LEVELS} levels or {_MOST_NODES} nodes")
    if kind is not type(None) and kind not in inp.kinds:
        raise StateError(f"a {kind.__qualname__} does not belong into a {type(inp.tree).__qualname__} as it is set up")
    node: Any = None if kind is type(None) else object.__new__(kind)
    for name, field in _NODES[kind].items():
        setattr(node, name, field.read(inp))
    inp.level -= 1
    return node


def _write_children(out: Writer, children: list[Any]) -> None:
    for child in children:
        _write_node(out, child)


def _read_children(inp: Reader) -> list[Any]:
    found = [_read_node(inp), _read_node(inp)]
    if None in found:
        raise StateError("a branch of the snapshot has no child on one side")
    return found


def _of_tree(attribute: str) -> _Field:
    """A field that is the tree's own object."""

    def write(out: Writer, value: Any) -> None:
        if value is not getattr(out.tree, attribute):
            raise StateError(f"a leaf has its own {attribute}, which no snapshot can hold")

    return _Field(write, lambda inp: getattr(inp.tree, attribute))


_NUMBER = _Field(Writer.put, Reader.number)
_COUNT = _Field(Writer.put, Reader.count)
_INTEGER = _Field(Writer.put, Reader.integer)  # River counts a leaf that is retired at every row: "active" is negative
_FEATURE = _Field(lambda out, value: out.features([value]), Reader.feature)
_STATS = _Field(_write_stats, _read_stats)
_MEAN = _Field(lambda out, value: out.put(value.n, value._mean), _read_mean)
_ADWIN = _Field(write_adwin, lambda inp: read_adwin(inp, inp.tree.drift_detector))
_NODE = _Field(_write_node, _read_node)

_LEAF: dict[str, _Field] = {
    "stats": _STATS,
    "depth": _COUNT,
    "splitter": _of_tree("splitter"),
    "splitters": _Field(_write_splitters, _read_splitters),
    "_disabled_attrs": _Field(_write_indices, lambda inp: set(_read_indices(inp))),
    "_last_split_attempt_at": _NUMBER,
}
_BAYES = {"_mc_correct_weight": _NUMBER, "_nb_correct_weight": _NUMBER}
_ADAPTS = {"drift_detector": _ADWIN, "_mean_error": _MEAN}
_RANDOM = _LEAF | {
    "max_features": _of_tree("max_features"),
    "rng": _of_tree("rng"),
    "feature_indices": _Field(_write_indices, _read_indices),
}
_BRANCH = {"feature": _FEATURE, "threshold": _NUMBER, "depth": _COUNT, "stats": _STATS}
_CHILDREN = {"children": _Field(_write_children, _read_children)}
# Every class that a snapshot may hold, by its number, with its fields.
_NODES: dict[type, dict[str, _Field]] = {
    type(None): {},
    AdaLeafClassifier: _LEAF | _BAYES | _ADAPTS | {"rng": _of_tree("_rng")},
    AdaNumBinaryBranchClass: _BRANCH | _ADAPTS | {"_alternate_tree": _NODE} | _CHILDREN,
    RandomLeafMajorityClass: _RANDOM,
    RandomLeafNaiveBayes: _RANDOM,
    RandomLeafNaiveBayesAdaptive: _RANDOM | _BAYES,
    NumericBinaryBranch: _BRANCH | _CHILDREN,
}
_KINDS = tuple(_NODES)
_TREE = {"_n_active_leaves": _INTEGER, "_n_inactive_leaves": _INTEGER, "_train_weight_seen_by_model": _NUMBER}
_ADAPTIVE = dict.fromkeys(("_n_alternate_trees", "_n_pruned_alternate_trees", "_n_switch_alternate_trees"), _COUNT)


def write_tree(out: Writer, tree: Any) -> None:
    """All that a tree has learned, but for its generator's place."""
    out.tree = tree
    out.put(len(tree.classes), *sorted(map(int, tree.classes)))
    for name, field in _fields_of(tree).items():
        field.write(out, getattr(tree, name))
    _write_node(out, tree._root)


def read_tree(inp: Reader, tree: Any) -> None:
    """Put it into a fresh ``tree`` of the same parameters."""
    inp.tree, inp.nodes_left, inp.level = tree, _MOST_NODES, 0
    inp.kinds = (type(tree._new_leaf()), AdaNumBinaryBranchClass if _adaptive(tree) else NumericBinaryBranch)
    tree.classes = {inp.label() for _ in range(inp.count(2))}
    for name, field in _fields_of(tree).items():
        setattr(tree, name, field.read(inp))
    tree._root = _read_node(inp)


def _fields_of(tree: Any) -> dict[str, _Field]:
    return _TREE | _ADAPTIVE if _adaptive(tree) else _TREE


def _adaptive(tree: Any) -> bool:
    return isinstance(tree, HoeffdingAdaptiveTreeClassifier)


def write_random(out: Writer, rng: random.Random) -> None:
    """The place of a generator in its sequence."""
    _, words, gauss = rng.getstate()
    if gauss is not None:
        raise StateError("a generator that has drawn normal numbers cannot be stored")
    out.put(*words)


def read_random(inp: Reader, rng: random.Random) -> None:
    """Move a generator there."""
    words = [inp.count(2**32 - 1) for _ in range(_WORDS)]
    rng.setstate((3, (*words, inp.count(_WORDS)), None))
