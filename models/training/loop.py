"""Runs the phases of a training, step by step, so that it can stop and go on anywhere to the same result.

Every random number is drawn from (seed, phase, epoch, step); what a step does depends on nothing else but the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weir.models.dataset.split import Rows
from weir.models.encoder import Encoder
from weir.models.evaluation.gate import quality
from weir.models.training import checkpoints
from weir.models.training.checkpoints import Checkpoint, TrainingProgress
from weir.models.training.chunks import Chunks, Timeline, batches, cut
from weir.models.training.feed import Feed
from weir.models.training.network import TrainableNetwork
from weir.models.training.phases import Phase, rate_at
from weir.models.training.training_settings import EncoderSettings
from weir.models.training.world import World
from weir.models.types import FloatVector, History, IntVector, Progress, TrainingStoppedError


def score_rows(
    encoder: Encoder,
    history: History,
    timeline: Timeline,
    rows: Rows,
    length: int,
    warmup: int,
    size: int,
    world: World,
) -> FloatVector:
    """Logit of each of ``rows``, in their order; the work is shared among the processes.

    Parameters
    ----------
    rows, length, warmup, size, world : see ``told_rows``.
    """

    def logit(x: Tensor) -> Tensor:
        return encoder.sequence(x, x.new_zeros((len(x), encoder.state)))[0]

    return told_rows(encoder, logit, history, timeline, rows.row, length, warmup, size, world)


def told_rows(
    encoder: Encoder,
    of: Callable[[Tensor], Tensor],
    history: History,
    timeline: Timeline,
    rows: IntVector,
    length: int,
    warmup: int,
    size: int,
    world: World,
) -> FloatVector:
    """What an encoder says of each of ``rows``, in their order; the work is shared among the processes.

    Parameters
    ----------
    of : events ``(b, L, D)`` of b entities, from a zero state on, to a number of each ``(b, L)``.
    rows : ``(k,)`` index into the history.
    length, warmup : each chunk of ``length`` events begins with a zero state ``warmup`` events before.
    size : chunks at a time.
    """
    wanted_row = np.zeros(len(history), np.bool_)
    wanted_row[rows] = True
    out = np.zeros(len(history))
    chunks = cut(timeline, wanted_row[timeline.order], length, warmup)
    encoder.eval()
    with torch.no_grad():
        for k, part in enumerate(batches(chunks, size, None)):
            if k % world.size != world.rank:  # every process takes each N-th batch; the sum puts them together
                continue
            at, there, counted = part.positions()
            at = timeline.order[at]
            x = torch.from_numpy(history.x[at] * there[..., None]).to(world.device)
            out[at[counted]] = of(x).float().cpu().numpy()[counted]
    found: FloatVector = world.sum(torch.from_numpy(out)).numpy()[rows]
    return found


OnEpoch = Callable[[str, int, float], None]
"""``on_epoch(phase, epoch, validation metric)``, on every process; it may raise to end the training."""


@dataclass
class Loop:
    """One training, from its first step or from its checkpoint to the weights that are kept."""

    network: TrainableNetwork
    feed: Feed
    validation: Rows
    settings: EncoderSettings
    phases: tuple[Phase, ...]
    seed: int
    world: World
    work: Path
    fingerprint: str
    progress: Progress
    stop: Callable[[], bool]
    on_epoch: OnEpoch
    check_first: bool
    """Whether the weights it begins with may be kept: those of a served encoder."""
    valid_from: float = np.inf
    """Event time from which nothing is learned of the next event where a surprise is told: it is measured there."""

    def run(self) -> TrainingProgress:
        """Train; afterwards the network holds the weights that validated best."""
        saved = checkpoints.read(self.work, self.fingerprint)
        self.at = saved.at if saved else TrainingProgress()
        self.best = saved.best if saved else {}
        if saved:
            self.network.load_state_dict(saved.model)
        elif self.check_first:
            self._keep_if_better("before", 0)
        moments = saved.optimiser if saved else {}
        for phase in self.phases[self.at.phase :]:
            self._phase(phase, moments)
            moments = {}
        if self.best:
            self.network.load_state_dict(self.best)
        return self.at

    def _phase(self, phase: Phase, moments: dict[str, torch.Tensor]) -> None:
        chunks = self._chunks(phase)
        steps = -(-len(chunks) // self.settings.batch)
        self.network.zero_grad(set_to_none=True)  # no gradient of the phase before is left to be clipped with these
        parameters = self.network.train_only(phase.part, phase.next_weight)
        optimiser = torch.optim.AdamW(parameters, lr=phase.rate, weight_decay=self.settings.weight_decay)
        if moments:
            checkpoints.restore_optimiser(optimiser, moments)
        module = self.world.wrap(self.network)
        while steps and self.at.epoch < phase.epochs and self.at.since_best < self.settings.patience:
            self._epoch(phase, module, optimiser, chunks, steps)
            self._close_epoch(phase, steps)
            self._save(optimiser)
        if phase.task and self.best:
            self.network.load_state_dict(self.best)
        # The surprise's phase has no validation of its own: what is kept are the best weights and what it added to
        # them.
        elif self.best:
            self.best = checkpoints.copied(self.network)
        self.at.phase, self.at.epoch, self.at.step, self.at.since_best = self.at.phase + 1, 0, 0, 0
        self._save(None)

    def _chunks(self, phase: Phase) -> Chunks:
        feed = self.feed
        until = self.valid_from if self.settings.surprise else np.inf
        wanted = feed.labelled(phase.since) if phase.task else feed.history.ts[feed.timeline.order] < until
        return cut(self.feed.timeline, wanted, self.settings.length, self.settings.warmup)

    def _epoch(
        self, phase: Phase, module: nn.Module, optimiser: torch.optim.Optimizer, chunks: Chunks, steps: int
    ) -> None:
        for part in islice(self._batches(chunks), self.at.step, None):
            # All ask at every step: a process that stopped alone would leave the others waiting in their next sum.
            if self.world.any(self.stop()):
                self._save(optimiser)
                raise TrainingStoppedError(f"stopped in {phase.name}, epoch {self.at.epoch}; {self.work} has the rest")
            for group in optimiser.param_groups:
                group["lr"] = rate_at(phase, self.at.epoch * steps + self.at.step, phase.epochs * steps)
            self.at.loss += self._step(phase, module, optimiser, part)
            self.at.step += 1
            self.progress(phase.name, self.at.epoch * steps + self.at.step, phase.epochs * steps)
            # The last step of an epoch is saved after its validation.
            if self.at.step % self.settings.checkpoint_steps == 0 and self.at.step < steps:
                self._save(optimiser)

    def _batches(self, chunks: Chunks) -> Iterator[Chunks]:
        return batches(chunks, self.settings.batch, np.random.default_rng([self.seed, self.at.phase, self.at.epoch]))

    def _step(self, phase: Phase, module: nn.Module, optimiser: torch.optim.Optimizer, part: Chunks) -> float:
        # Step + 1: numpy takes a last 0 for nothing, and would draw what the order of the batches was drawn from.
        rng = np.random.default_rng([self.seed, self.at.phase, self.at.epoch, self.at.step + 1])
        # Dropout differs between processes, as between rows.
        torch.manual_seed(int(rng.integers(2**62)) + self.world.rank)
        device = self.world.device
        batch = self.feed.batch(part, rng, self.network.heads, self.world.share, device)
        module.train()
        # bfloat16 has the exponents of float32, so that gradients need no scaling against underflow.
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = module(batch, phase.next_weight, phase.task)
        optimiser.zero_grad(set_to_none=True)
        (loss * self.world.size).backward()  # the mean over processes of their shares, as one process would have it
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_norm)
        optimiser.step()
        return float(self.world.sum(loss.detach().double()))

    def _close_epoch(self, phase: Phase, steps: int) -> None:
        note: dict[str, float | str] = {"phase": phase.name, "loss": self.at.loss / steps}
        if phase.task:
            note |= self._keep_if_better(phase.name, self.at.epoch)
        self.at.epochs.append(note)
        self.at.epoch, self.at.step, self.at.loss = self.at.epoch + 1, 0, 0.0

    def _keep_if_better(self, name: str, epoch: int) -> dict[str, float]:
        """Validate; without both classes in the validation the newest weights are kept."""
        found = quality(self.validation.y, self._scores(), self.validation.weight)
        metric = found[self.settings.metric]
        # Not `>`: NaN, without both classes, keeps the newest weights.
        if self.at.best is None or not metric <= self.at.best:
            self.at.best, self.at.since_best = (None if np.isnan(metric) else metric), 0
            self.at.found = found
            self.best = checkpoints.copied(self.network)
        else:
            self.at.since_best += 1
        self.on_epoch(name, epoch, metric)
        return found

    def _scores(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        s, feed = self.settings, self.feed
        return score_rows(
            self.network.encoder,
            feed.history,
            feed.timeline,
            self.validation,
            s.length,
            s.warmup,
            4 * s.batch,
            self.world,
        )

    def _save(self, optimiser: torch.optim.Optimizer | None) -> None:
        # All processes have the same weights, and see the same folder.
        if self.world.rank == 0:
            moments = checkpoints.optimiser_state(optimiser) if optimiser is not None else {}
            now = checkpoints.copied(self.network)
            Checkpoint(self.fingerprint, self.at, now, self.best, moments).write(self.work)
