"""ROC AUC and average precision from sorted scores or from score histograms. It knows weights, not time."""

from __future__ import annotations

import numpy as np

from weir.online.batch import BoolVector, FloatVector


def rank_groups(pos: FloatVector, neg: FloatVector) -> dict[str, float]:
    """Rank metrics of groups of tied scores, lowest score first, and how far each tie may have moved them.

    ``roc_auc``, ``average_precision`` and ``..._bound`` of both; what needs a class that is missing is absent.

    Parameters
    ----------
    pos, neg : (G,) weight of the positives and of the negatives in each group, >= 0.

    Notes
    -----
    ROC AUC counts a tied pair as one half. Average precision is the sum of precision times the gain in recall over
    distinct scores, as in scikit-learn. The bounds hold for whatever order the rows of a group really have: an AUC can
    move by at most half of the pairs that share a group. An AP is lowest with every group's negatives ranked first and
    its positives spread out after them (a Riemann sum of x / (x + fp), so not below the integral), and highest with
    its positives ranked first.

    >>> found = rank_groups(np.array([0.0, 1.0, 1.0]), np.array([2.0, 1.0, 0.0]))
    >>> round(found["roc_auc"], 4), round(found["roc_auc_bound"], 4), round(found["average_precision"], 4)
    (0.9167, 0.0833, 0.8333)
    """
    pos, neg = pos[::-1], neg[::-1]  # highest score first, as precision is read
    tp, fp = np.cumsum(pos), np.cumsum(neg)
    positives, negatives = float(tp[-1]) if len(tp) else 0.0, float(fp[-1]) if len(fp) else 0.0
    if positives <= 0.0:
        return {}
    tp_before, fp_before = tp - pos, fp - neg
    out, bounds = dict[str, float](), dict[str, float]()
    if negatives > 0.0:
        pairs = positives * negatives
        out["roc_auc"] = float(np.dot(neg, tp_before + 0.5 * pos)) / pairs
        bounds["roc_auc_bound"] = 0.5 * float(np.dot(pos, neg)) / pairs
    out["average_precision"] = average = _average_precision(pos, tp, fp)
    highest = _average_precision(pos, tp, fp_before)
    lowest = _lowest_precision(pos, tp_before, fp)
    bounds["average_precision_bound"] = max(highest - average, average - lowest)
    return out | bounds


def _average_precision(pos: FloatVector, tp: FloatVector, fp: FloatVector) -> float:
    held = pos > 0.0
    return float(np.dot(pos[held], tp[held] / (tp[held] + fp[held])) / pos[held].sum())


def _lowest_precision(pos: FloatVector, tp_before: FloatVector, fp: FloatVector) -> float:
    lost = (pos > 0.0) & (fp > 0.0)
    area = float(np.dot(fp[lost], np.log1p(pos[lost] / (tp_before[lost] + fp[lost]))))
    return 1.0 - area / float(pos.sum())


def rank_rows(score: FloatVector, y: BoolVector, weight: FloatVector) -> dict[str, float]:
    """Exact rank metrics of rows; equal scores are ties.

    >>> found = rank_rows(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]), np.ones(4))
    >>> {name: round(value, 4) for name, value in found.items()}
    {'roc_auc': 0.75, 'average_precision': 0.8333}
    """
    if len(score) == 0:
        return {}
    order = np.argsort(score, kind="stable")
    score, y, weight = score[order], y[order], weight[order]
    starts = np.flatnonzero(np.concatenate(([True], score[1:] > score[:-1])))
    pos = np.add.reduceat(np.where(y, weight, 0.0), starts)
    neg = np.add.reduceat(np.where(y, 0.0, weight), starts)
    # Every group is of equal scores: there is nothing that an order could move.
    return {name: value for name, value in rank_groups(pos, neg).items() if not name.endswith("_bound")}
