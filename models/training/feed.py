"""What a training step takes: chunks of a history as tensors, some events left out, some times jittered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weir.models.dataset.sequences import next_events
from weir.models.dataset.split import Rows, columns_of
from weir.models.training.chunks import Chunks, Timeline
from weir.models.training.nextevent import NextHeads, NextSpec, NextTargets, bucket
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import BoolVector, History, IntVector


@dataclass(frozen=True, slots=True)
class Batch:
    """b chunks of at most L events, padded on the right, as tensors."""

    x: Tensor
    """``(b, L, D)`` float32 raw columns; 0 where there is no event."""
    counted: Tensor
    """``(b, L)`` bool: whether the loss of the event's next event counts."""
    y: Tensor
    weight: Tensor
    """``(b, L)`` of the label; 0 where there is none or it does not count."""
    next: NextTargets
    label_weight: float
    """Sum of ``weight`` over the whole batch, of which this may be one process's share."""
    events: float
    """Sum of ``counted`` over the whole batch."""


class Feed:
    """Assembles batches of one history and one set of labelled rows."""

    def __init__(self, history: History, rows: Rows, settings: EncoderSettings, spec: NextSpec, warm: bool) -> None:
        self.history = history
        self.timeline = Timeline.of(history)
        self.settings = settings
        self.targets = next_events(history)
        self._type = _same_types(self.targets.type, history.types, spec.types)
        nothing = np.full(len(history), -1, np.int64)
        self._item = nothing if warm else bucket(self.targets.item, spec.buckets)  # codes are of one history only
        self._y, self._weight = columns_of(rows, len(history))
        # Jitter of amounts or counts would change what they mean.
        self._times = torch.tensor([any(t in name for t in settings.time_columns) for name in history.inputs])

    def labelled(self, since: float = -np.inf) -> BoolVector:
        """By position: whether the row has a label to learn from, of an event at ``since`` or later."""
        at = self.timeline.order
        return (self._weight[at] > 0) & (self.history.ts[at] >= since)

    def batch(
        self, chunks: Chunks, rng: np.random.Generator, heads: NextHeads, share: slice, device: torch.device
    ) -> Batch:
        """Assemble a batch, of which ``share`` is this process's; every process draws the same random numbers."""
        rows, there, counted = self._kept(chunks, rng)
        weight = self._weight[rows] * counted
        # Of the whole batch, before it is shared out: each process divides its part by the same sums.
        label_weight, events = float(weight.sum()), float(counted.sum())
        # Drawn even where nothing is jittered and before the share is taken: what follows is then the same in every
        # process.
        jitter = rng.integers(2**62)
        if len(rows[share]) == 0:  # fewer chunks than processes: one that does not count keeps the network defined
            rows, there, counted, weight = rows[:1], there[:1], counted[:1] & False, weight[:1] * 0
            share = slice(None)
        rows, there, counted, weight = rows[share], there[share], counted[share], weight[share]
        longest = max(int(there.sum(1).max()), 1)
        rows, there, counted, weight = rows[:, :longest], there[:, :longest], counted[:, :longest], weight[:, :longest]
        x = self._jittered(torch.from_numpy(self.history.x[rows] * there[..., None]), int(jitter))
        return Batch(
            x=x.to(device),
            counted=torch.from_numpy(counted).to(device),
            y=torch.from_numpy(self._y[rows]).to(device),
            weight=torch.from_numpy(weight).to(device),
            next=self._next(rows, heads.draw(rng), device),
            label_weight=label_weight,
            events=events,
        )

    def _next(self, rows: NDArray[np.int64], negatives: NDArray[np.int64], device: torch.device) -> NextTargets:
        t = self.targets
        return NextTargets(
            type=torch.from_numpy(self._type[rows]).to(device),
            gap=torch.from_numpy(t.log_gap[rows]).to(device),
            amount=torch.from_numpy(t.log_amount[rows]).to(device),
            item=torch.from_numpy(self._item[rows]).to(device),
            negatives=torch.from_numpy(negatives).to(device),
        )

    def _kept(
        self, chunks: Chunks, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Rows, which of them there are and which count, ``(b, L)``, some events left out and the others moved up."""
        at, there, counted = chunks.positions()
        if self.settings.event_dropout > 0:
            there = there & (rng.random(there.shape) >= self.settings.event_dropout)
            order = np.argsort(~there, axis=1, kind="stable")
            counted = np.take_along_axis(counted & there, order, 1)
            at, there = np.take_along_axis(at, order, 1), np.take_along_axis(there, order, 1)
        return self.timeline.order[at], there, counted

    def _jittered(self, x: Tensor, seed: int) -> Tensor:
        if self.settings.time_jitter <= 0 or not bool(self._times.any()):
            return x.clone()  # torch's own memory is aligned, numpy's is not: products may round differently
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * self.settings.time_jitter
        return torch.where(self._times, x * torch.exp(noise), x)


def _same_types(code: IntVector, names: tuple[str, ...], known: tuple[str, ...]) -> IntVector:
    """Codes of types as the heads number them, by name; -1 where they have none."""
    place = [known.index(name) if name in known else -1 for name in names]
    return np.array([*place, -1], np.int64)[code]
