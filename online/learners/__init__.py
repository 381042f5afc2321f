"""Online learners: folds over labelled examples, with snapshots and contributions."""

from __future__ import annotations

from online.learners.base import Learner
from online.learners.bayesian import BayesianLogistic
from online.learners.boosted import Boosted
from online.learners.column import Column
from online.learners.factory import REGISTRY, LearnerSpec, build_learner, hasty, known_parameters
from online.learners.logistic import ScaledLogistic
from online.learners.online_model import ModelSnapshot, OnlineModel
from online.learners.stack import Stack, predict_learn

__all__ = [
    "REGISTRY",
    "BayesianLogistic",
    "Boosted",
    "Column",
    "Learner",
    "LearnerSpec",
    "ModelSnapshot",
    "OnlineModel",
    "ScaledLogistic",
    "Stack",
    "build_learner",
    "hasty",
    "known_parameters",
    "predict_learn",
]
