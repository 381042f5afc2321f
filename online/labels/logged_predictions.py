"""Predictions as they were logged, as rows of numbers and texts, and back as the examples that labels make of them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, cast

import numpy as np

from weir.online.batch import ExampleBatch, FloatMatrix, IntVector, PredictionBatch, side_by_side
from weir.online.digests import pair_digests
from weir.online.labels.join_policy import JoinResult
from weir.online.labels.logged_rows import FEATURES, SCORE, Columns, LoggedRows, Texts, texts_at
from weir.online.labels.prediction_index import PredictionIndex
from weir.online.labels.row_labels import NO_PAIRS, Pairs


class RowsToRead(NamedTuple):
    """Rows that have to be read back."""

    rows: IntVector
    offsets: IntVector
    """Where each was logged."""


class LoggedPredictions(LoggedRows):
    """What was logged with the rows of an index; parameters as of `LabelJoiner`."""

    def __init__(
        self, index: PredictionIndex, n_features: int, n_extra: int, entities: tuple[str, ...], unlogged: int
    ) -> None:
        super().__init__(FEATURES + n_features + n_extra - unlogged, 2 + len(entities), index.policy.chunk_rows)
        self.n_features, self.n_extra, self.entities, self.unlogged = n_features, n_extra, entities, unlogged
        self._index = index

    def texts_of(
        self, batch: PredictionBatch, extra: FloatMatrix | None, entities: dict[str, list[str | None]]
    ) -> Texts:
        """The identifiers of predictions; raises ``ValueError`` where they do not have the shape that is logged."""
        n = len(batch)
        if batch.features.shape != (n, self.n_features):
            raise ValueError(
                f"features have shape {batch.features.shape}, expected {(n, self.n_features)}; build the joiner with "
                "the number of features that the model scores"
            )
        shape = (n, 0) if extra is None else extra.shape
        if shape != (n, self.n_extra):
            raise ValueError(f"extra has shape {shape}, expected {(n, self.n_extra)}; n_extra sets its width")
        if unknown := entities.keys() - set(self.entities):
            raise ValueError(f"identifiers {sorted(unknown)} are not among {self.entities}; name them in entities=")
        return _texts(batch, [entities.get(name) or [None] * n for name in self.entities])

    def missing(self, rows: IntVector) -> RowsToRead:
        """Which of some rows have to be read back."""
        # Several labels may speak of one row, which is read once.
        rows = np.unique(rows)
        rows = rows[~self.holds(rows)]
        return RowsToRead(rows, self._index.at("offset", rows))

    def bring(
        self, rows: IntVector, predictions: PredictionBatch, extra: FloatMatrix, entities: dict[str, list[str | None]]
    ) -> None:
        """Hold such rows until ``trim``; one whose event is another one is left out."""
        texts = _texts(predictions, [entities[name] for name in self.entities])
        numbers = side_by_side(predictions.score, predictions.features, extra)
        events = pair_digests(predictions.entity_id, predictions.event_id)
        same = (events == self._index.at("digest", rows)).all(axis=1)
        if not same.all():
            at = np.flatnonzero(same)
            rows, numbers, texts = rows[at], numbers[at], texts_at(texts, at)
        self.lend(rows, Columns(numbers, texts))

    def examples(self, pairs: Pairs) -> JoinResult:
        """What labels make of the rows that they met; those that could not be read back are lost, and counted."""
        return self._examples(pairs) if len(pairs.rows) else self._nothing

    @cached_property
    def _nothing(self) -> JoinResult:
        """Made once: most calls of `LabelJoiner.log` join nothing, and a row alone pays for each array."""
        return self._examples(NO_PAIRS)

    def _examples(self, pairs: Pairs) -> JoinResult:
        (numbers, texts), found = self.gather(pairs.rows)
        if found is not None and not found.all():
            self._index.stats.lost += int(np.count_nonzero(~found))
            there = np.flatnonzero(found)
            pairs, numbers, texts = pairs.take(there), numbers[there], texts_at(texts, there)
        event_id, entity_id, *entities = texts
        ts = self._index.at("ts", pairs.rows)
        split = FEATURES + self.n_features
        unlogged = self._index.at("unlogged", pairs.rows) if self.unlogged else np.empty((len(pairs.rows), 0))
        examples = ExampleBatch(
            event_id=cast("list[str]", event_id),
            ts=ts,
            # Copies: a view would keep the other columns alive, and have gaps between its rows.
            x=numbers[:, FEATURES:split].copy(),
            score=numbers[:, SCORE].copy(),
            y=pairs.y,
            weight=pairs.weight,
            correction=(pairs.before > 0) & pairs.new,
            n=pairs.before,
            entity_id=entity_id,
        )
        return JoinResult(
            examples=examples,
            entity_id=cast("list[str]", entity_id),
            extra=side_by_side(unlogged, numbers[:, split:]),
            entities=dict(zip(self.entities, entities, strict=True)),
            # Where there is no watermark yet, not before its event.
            label_ts_known=np.where(pairs.known_at > -np.inf, pairs.known_at, ts),
            new=pairs.new,
            ripe=pairs.ripe,
        )


def _texts(batch: PredictionBatch, secondary: Texts) -> Texts:
    return [cast("list[str | None]", batch.event_id), cast("list[str | None]", batch.entity_id), *secondary]
