"""Scoring and labelling apart: a labelling lane and scoring lanes that only send each other batches; and their log."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.online.task_streams import CHURN, FRAUD, Call, script
from weir.online.batch import EventBatch, LabelBatch, ScoredBatch
from weir.online.stages.labelling import LabellingStage, LabelOutput
from weir.online.stages.pipeline import TaskPipeline
from weir.online.stages.scoring import ScoreOutput, ScoringStage
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

MERCHANT = """
[[entities]]
name = "merchant"
key = "merchant_id"
aggregates = [
  { name = "tx", ops = ["count", "since_last", "since_first"], windows = ["1h", "1d"] },
  { name = "paid", value = "amount", ops = ["mean", "max", "distinct"], windows = ["1d"], where = "ratio < 9" },
  { name = "odd", value = "amount / merchant.paid_mean_1d", ops = ["mean", "over_mean"], windows = ["1d"] },
]
labels ="""

EVERYONE = """
[[entities]]
name = "everyone"
key = "*"
aggregates = [{ name = "spent", value = "amount", ops = ["sum"], windows = ["1h"] }]
labels = [
  { name = "bad", ops = ["share", "ewmean"], windows = ["1d"], where = "amount > 5" },
  { name = "run", ops = ["run_count", "run_min", "run_since_first", "run_since_negative"], value = "amount" },
]

[model]"""

MANY = FRAUD.replace('\n[[entities]]\nname = "merchant"\nkey = "merchant_id"\nlabels =', MERCHANT)
MANY = MANY.replace("\n[model]", EVERYONE)

CHURN_OF_ALL = CHURN.replace(
    "\n[model]",
    """labels = [{ name = "left", ops = ["share", "since_positive"], windows = ["1d"] }]

[[entities]]
name = "everyone"
key = "*"
aggregates = [{ name = "plays", ops = ["count", "since_last"], windows = ["1h"] }]

[model]""",
)

USERS, MERCHANTS = ["u1", "u2", "u3", "u4"], ["m1", "m2", "m3"]
Logged = ScoredBatch | LabelBatch


class Apart:
    """One labelling lane and scoring lanes over one store, each user in a lane; what they send is applied at once."""

    def __init__(self, toml: str, lanes: int = 1) -> None:
        self.task, self.store = TaskSpec.from_toml(toml), MemoryFeatureStore()
        first = ScoringStage(self.task, self.store, side=True)
        others = [ScoringStage(self.task, self.store, side=True, model=first.model) for _ in range(lanes - 1)]
        self.lanes, self.model, self.engine = [first, *others], first.model, first.engine
        self.labelling = labelling_of(self.task, lambda x, _: self.model.learner.contributions(x))

    def lane(self, user: str | None) -> ScoringStage:
        return self.lanes[(USERS.index(user) if user in USERS else 0) % len(self.lanes)]

    def call(self, step: Call) -> tuple[ScoreOutput | None, list[LabelOutput]]:
        _, given_ = step
        if isinstance(given_, LabelBatch):
            return None, [self.take(self.labelling.labels(given_))]
        if isinstance(given_, EventBatch):
            user = given_.entities["user_id"][0] if len(given_) else None
            out = self.lane(user).events(given_)
        else:
            out = self.lanes[0].advance(given_)
        made: list[LabelOutput] = []
        for layout, updates in out.updates.items():
            self.engine.apply(layout, updates)
        if out.scored is not None:
            made.append(self.take(self.labelling.scored(out.scored, between=out.timer_labels is not None)))
        if out.timer_labels is not None:
            made.append(self.take(self.labelling.labels(out.timer_labels, out.known_at, between=True)))
        if not isinstance(given_, EventBatch):
            made.append(self.labelling.advance(given_))
        return out, made

    def take(self, made: LabelOutput) -> LabelOutput:
        for layout, updates in made.updates.items():
            self.engine.apply(layout, updates)
        for examples in made.examples:
            self.model.learn(examples)
        return made


def labelling_of(task: TaskSpec, contributions: Any = None, **options: Any) -> LabellingStage:
    shape = shape_of(task)
    explain = contributions or (lambda x, versions: np.where(x > 0, 0.1 * versions[:, None], 0.0))
    return LabellingStage(task, shape.features, shape.masks, shape.secondary, explain, **options)


def together(toml: str) -> TaskPipeline:
    return TaskPipeline(TaskSpec.from_toml(toml), MemoryFeatureStore())


def logged(seed: int, n: int = 100, toml: str = FRAUD) -> list[Logged]:
    """What a label lane would read: scores and labels, in the order in which they were made."""
    pipeline, log = together(toml), list[Logged]()
    for kind, b in script(n, seed):
        if isinstance(b, LabelBatch):
            pipeline.labels(b)
            log.append(b)
        elif isinstance(b, EventBatch) and kind == "events":
            out = pipeline.scoring.events(b)
            if out.scored is not None:
                log.append(out.scored)
                for examples in pipeline.labelling.scored(out.scored).examples:
                    pipeline.model.learn(examples)
    return log
