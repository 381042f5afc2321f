"""Scores of labelled rows as a serving encoder would give them, up to how far back its state reaches."""

from __future__ import annotations

import numpy as np
import torch

from weir.models.dataset.split import Rows
from weir.models.encoder import Encoder
from weir.models.training.chunks import Timeline, batches, cut
from weir.models.training.world import World
from weir.models.types import FloatVector, History


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
    length, warmup : each chunk of ``length`` events begins with a zero state ``warmup`` events before.
    size : chunks at a time.
    """
    wanted_row = np.zeros(len(history), np.bool_)
    wanted_row[rows.row] = True
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
            logit, _, _ = encoder.sequence(x, x.new_zeros((len(at), encoder.state)))
            out[at[counted]] = logit.float().cpu().numpy()[counted]
    found: FloatVector = world.sum(torch.from_numpy(out)).numpy()[rows.row]
    return found
