"""What is trained: an encoder with its next-event heads, and the loss of a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from weir.models.encoder import Encoder
from weir.models.training.feed import Batch
from weir.models.training.nextevent import NextHeads

_PROBE_WEIGHT = 0.1
Part = Literal["pretrain", "head", "all", "surprise"]


class TrainableNetwork(nn.Module):
    """An encoder and what is only needed to train it; its ``forward`` is the loss, so that gradients can be shared."""

    def __init__(self, encoder: Encoder, heads: NextHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.probe = nn.Linear(encoder.embedding, 1) if encoder.embedding else None

    def forward(self, batch: Batch, next_weight: float, task: bool) -> Tensor:
        """Mean loss over the whole batch of which ``batch`` may be a share: ``next_weight * L_next + L_task``.

        A share's loss is its part of the mean: the parts add up to the loss of the whole.
        """
        b = batch.x.shape[0]
        zero = batch.x.new_zeros((b, self.encoder.state))
        hidden, e, v = self.encoder.hidden(batch.x, zero)
        total = hidden.new_zeros(())
        if next_weight > 0:
            foretold = self.heads(hidden, batch.next, batch.counted) + self._surprise(hidden, v, batch, zero)
            total = total + next_weight / max(batch.events, 1.0) * foretold
        if task:
            total = total + self._task(hidden, self.encoder.logit(hidden, e, v), batch) / max(batch.label_weight, 1e-9)
        return total

    def _surprise(self, hidden: Tensor, v: Tensor, batch: Batch, zero: Tensor) -> Tensor:
        """Sum of the losses of what is foretold of each event; one labelled positive is not what is usual."""
        if self.encoder.surprise is None:
            return hidden.new_zeros(())
        loss = self.encoder.surprise.loss(batch.x, v, self.encoder.before(hidden, zero))
        return (loss * (batch.counted & ~((batch.y > 0) & (batch.weight > 0)))).sum()

    def _task(self, hidden: Tensor, logit: Tensor, batch: Batch) -> Tensor:
        """Compute the binary cross entropy; a linear probe on the embedding teaches the embedding."""
        loss = (
            functional.binary_cross_entropy_with_logits(logit.float(), batch.y, reduction="none") * batch.weight
        ).sum()
        if self.probe is None or self.encoder.embed is None:
            return loss
        # Without it nothing would tell the embedding what to hold: the logit does not pass through it.
        # In float32 again: under autocast a logit has eight bits.
        probed = self.probe(self.encoder.embed(hidden)).squeeze(-1).float()
        aside = functional.binary_cross_entropy_with_logits(probed, batch.y, reduction="none") * batch.weight
        return loss + _PROBE_WEIGHT * aside.sum()

    def train_only(self, part: Part, next_weight: float) -> list[nn.Parameter]:
        """Freeze what ``part`` does not learn; returns what it does."""
        e = self.encoder
        body: list[nn.Module | None] = [e.enter, e.gru]
        task: list[nn.Module | None] = [e.mix, e.out, e.embed, self.probe]
        parts: dict[Part, list[nn.Module | None]] = {
            "pretrain": body, "head": task, "all": body + task, "surprise": [e.surprise]
        }  # fmt: skip
        chosen = parts[part]
        chosen = [*chosen, self.heads, e.surprise] if next_weight > 0 and part != "surprise" else chosen
        # To leave them out of the optimiser would not do: several processes wait for the gradient of each parameter
        # that asks for one.
        self.requires_grad_(False)
        for module in chosen:
            if module is not None:
                module.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def start_at(self, positive_share: float) -> None:
        """Make an untrained head predict the share of positives, so that training need not begin by learning it."""
        share = min(max(positive_share, 1e-6), 1 - 1e-6)
        with torch.no_grad():
            self.encoder.out.bias.fill_(math.log(share / (1 - share)))
            self.encoder.out.weight.mul_(0.1)  # the bias is right already, so the first steps should leave it alone
