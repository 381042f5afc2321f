"""The sequence encoder: a recurrent network that carries one vector for each entity.

It takes the logged features of an event, raw: they are normalised inside, so that its graph needs nothing else. The
other entities of an event (merchant or terminal, device) come in through the feature columns of their windows, and the
time since the entity's previous event through a column such as ``user.events_since_last``; the network itself follows
the task's own entity only. It knows neither labels nor how it is trained (``weir.models.training``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weir.models.errors import ModelError
from weir.models.types import FloatVector

_KNOTS = 32
_FARTHEST = 64.0  # its square still fits into float16, which ends at 65,504
_TAIL = 1.5
_LEAST = 16.0


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The shape of an encoder; with the weights, all it takes to build it again."""

    inputs: tuple[str, ...]
    """D names of the columns of x."""
    hidden: int = 64
    """H: the state carried for each entity, and the width of the layers."""
    embedding: int = 0
    """E: coordinates of the embedding; 0 for none."""
    knots: int = 0
    """K: pieces of the piecewise linear code of a column."""
    dropout: float = 0.1
    """Share of the last hidden layer that is dropped, while training."""
    clip: float = 8.0
    """Standard deviations at which a normalised column is cut."""
    predicts: tuple[str, ...] = ()
    """P names among the inputs, whose next values are foretold; how wrong that was is the surprise."""
    surprise_events: int = 1
    """Events that the surprise is a mean over, the newest counting most."""

    def __post_init__(self) -> None:
        if not self.inputs or self.hidden < 1 or self.embedding < 0 or self.knots < 0:
            raise ModelError(
                f"an encoder of {len(self.inputs)} inputs, {self.hidden} hidden, {self.embedding} embedding and "
                f"{self.knots} knots: at least 1, 1, 0 and 0 are needed"
            )
        if unknown := [name for name in self.predicts if name not in self.inputs]:
            raise ModelError(
                f"surprise is to be of {unknown[:3]}, which the encoder does not see: add it to its inputs"
            )
        if self.surprise_events < 1:
            raise ModelError(f"surprise_events is {self.surprise_events}: at least 1 is needed")


class Normaliser(nn.Module):
    """Raw columns to columns a network can take: signed log where asked, scale, clip, and a piecewise linear code.

    The code says of each of K pieces of a column's range how far the value is into it, 0 to 1, so that a linear layer
    can bend at quantiles (Gorishniy et al. 2022, On embeddings for numerical features in tabular deep learning).
    """

    log: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    slope: Tensor

    def __init__(self, width: int, knots: int, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.width = width * (1 + knots)
        # Set once, when the network is new: one that is trained on keeps the scale that its weights were learned on.
        self.register_buffer("log", torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("low", torch.zeros(width, knots))
        self.register_buffer("slope", torch.zeros(width, knots))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., D)`` raw to normalised columns ``(..., D)``, and these with their pieces ``(..., D * (1 + K))``."""
        # With its sign: a refund is below -1, where the logarithm has no value.
        squeezed = torch.sign(x) * torch.log1p(torch.abs(x))
        v = (torch.where(self.log > 0, squeezed, x) - self.mean) * self.scale
        # One absurd amount must not drown the other columns, nor what comes later through the state.
        v = torch.clamp(v, -self.clip, self.clip)
        if self.low.shape[1] == 0:
            return v, v
        pieces = torch.clamp((v.unsqueeze(-1) - self.low) * self.slope, 0.0, 1.0)  # (..., D, K)
        return v, torch.cat([v, pieces.flatten(-2)], -1)


class Surprise(nn.Module):
    """How far an event is from what the state before it foretold: mean and deviation of each of P normalised columns.

    The error is ``log1p`` of the mean squared distance in foretold deviations, over the columns that are not missing
    (-0.0), less what it is where every distance is 1. What is told is its running mean, as minus the logarithm of the
    share of usual events whose running mean is as large (split conformal, Vovk et al. 2005). Beyond all of these it
    rises on, to keep the order, as a detector of states does.
    """

    at: Tensor
    low: Tensor
    slope: Tensor
    rise: Tensor
    end: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        places = [config.inputs.index(name) for name in config.predicts]
        self.events = config.surprise_events
        self.next = nn.Linear(config.hidden, 2 * len(places))
        self.register_buffer("at", torch.tensor(places, dtype=torch.int64))
        for name in ("low", "slope", "rise"):
            self.register_buffer(name, torch.zeros(_KNOTS))
        self.register_buffer("end", torch.zeros(1))

    def distances(self, x: Tensor, v: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances, logarithms of the deviations, and which columns are there (1 or 0): each ``(..., P)``.

        Parameters
        ----------
        x, v : ``(..., D)`` the event, raw and normalised.
        before : ``(..., H)`` the state before it.
        """
        raw = x.index_select(-1, self.at)
        # 1 / -0.0 is -inf, and no other value that is not below 0 has a reciprocal below 0.
        there = torch.clamp(torch.abs(raw) * 3e38 + torch.clamp(torch.reciprocal(raw), 0.0, 1.0), 0.0, 1.0)
        mean, deviation = self.next(before).chunk(2, -1)
        deviation = torch.clamp(deviation, -4.0, 3.0)  # a column that never moved must not make a first move infinite
        off = (v.index_select(-1, self.at) - mean) * torch.exp(-deviation)
        return torch.clamp(off, -_FARTHEST, _FARTHEST), deviation, there

    def loss(self, x: Tensor, v: Tensor, before: Tensor) -> Tensor:
        """``(...,)`` minus the log-likelihood of a normal distribution, less a constant: a mean over the columns."""
        off, deviation, there = self.distances(x, v, before)
        return ((0.5 * off * off + deviation) * there).sum(-1) / torch.clamp(there.sum(-1), 1.0)

    def errors(self, x: Tensor, v: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """``(...,)`` the error of each event; and 1, or 0 where all its columns are missing."""
        off, _, there = self.distances(x, v, before)
        count = there.sum(-1)
        # Weights before the sum: a sum of squares would not fit into float16.
        share = there * torch.reciprocal(torch.clamp(count, 1.0)).unsqueeze(-1)
        return torch.log1p((off * off * share).sum(-1)) - math.log(2.0), torch.clamp(count, 0.0, 1.0)

    def taken(self, course: Tensor, error: Tensor, there: Tensor) -> Tensor:
        """The running mean ``(...,)`` after an event."""
        # A product, as `weir.models.onnx.translate` knows no division.
        return course + there * (error - course) * (1.0 / self.events)

    def told(self, course: Tensor, there: Tensor) -> Tensor:
        """Minus the logarithm of the share of usual events ``(...,)``; -1 where the event says nothing."""
        pieces = torch.clamp((course.unsqueeze(-1) - self.low) * self.slope, 0.0, 1.0)
        said = (pieces * self.rise).sum(-1) + _TAIL * torch.clamp(course - self.end, 0.0)
        return torch.clamp(said, 0.0, _LEAST) * there + (there - 1.0)

    def calibrate(self, usual: FloatVector) -> None:
        """Learn the running means ``(m,)`` of usual events that nothing was fitted to.

        Raises ``ModelError`` where there are none.
        """
        if len(usual) == 0:
            raise ModelError("no event of validation is usual, so none can surprise: lengthen validation")
        # Equal steps of the logarithm that is told: equal steps of the share would spend all pieces but one on what is
        # ordinary.
        share = np.geomspace(1.0, 1.0 / (len(usual) + 1.0), _KNOTS + 1)
        # Of equal values the first: as many as that are as large.
        edges, first = np.unique(np.quantile(usual, 1.0 - share), return_index=True)
        told, n = -np.log(share[first]), len(edges) - 1
        for buffer in (self.low, self.slope, self.rise):
            buffer.zero_()
        self.low[:n] = torch.from_numpy(edges[:-1])
        # Two edges may be as near as floats are; an infinite slope times a distance of 0 would be NaN.
        self.slope[:n] = torch.from_numpy(1.0 / np.maximum(np.diff(edges), 1e-6))
        self.rise[:n] = torch.from_numpy(np.diff(told))
        self.end.fill_(float(edges[-1]))


class Encoder(nn.Module):
    """GRU over the events of an entity (Cho et al. 2014); its head sees the state, the event's code and its columns.

    A zero state is an entity never seen. With a surprise the state carries its running mean as the last float.
    ``step`` is ``sequence`` of length 1, written out in plain products so that it exports to any runtime; both agree to
    1e-5.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        h = config.hidden
        self.normalise = Normaliser(len(config.inputs), config.knots, config.clip)
        self.enter = nn.Linear(self.normalise.width, h)
        self.gru = nn.GRU(h, h, batch_first=True)
        # The head sees this event's columns too: what only this event says need not fit into the state.
        self.mix = nn.Linear(2 * h + len(config.inputs), h)
        self.drop = nn.Dropout(config.dropout)
        self.out = nn.Linear(h, 1)
        self.embed = nn.Linear(h, config.embedding) if config.embedding else None
        self.surprise = Surprise(config) if config.predicts else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """D names of the columns of x."""
        return self.config.inputs

    @property
    def state(self) -> int:
        """S: floats carried for each entity."""
        return self.config.hidden + (self.surprise is not None)

    @property
    def embedding(self) -> int:
        """E, the coordinates of the embedding; 0 for none."""
        return self.config.embedding

    def drop_out(self, share: float) -> None:
        """Drop this ``share`` of the last hidden layer in training from now on."""
        self.config, self.drop.p = replace(self.config, dropout=share), share

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in the next event of each of n entities.

        Parameters
        ----------
        x : ``(n, D)`` float32, raw.
        state : ``(n, S)`` float32.

        Returns
        -------
        logit ``(n,)``, the next state ``(n, S)``, embedding ``(n, E)``, with the surprise behind it where there is one.
        """
        v, pieces = self.normalise(x)
        e = functional.gelu(self.enter(pieces))
        if self.surprise is None:
            h = self._cell(e, state)
            return self.logit(h, e, v), h, self._embedding(h)
        # The error is of the state before: the one after has seen the event.
        before, course = torch.split(state, [self.config.hidden, 1], -1)
        h, (error, there) = self._cell(e, before), self.surprise.errors(x, v, before)
        mean = self.surprise.taken(course.squeeze(-1), error, there)
        told = self.surprise.told(mean, there).unsqueeze(-1)
        told = told if self.embed is None else torch.cat([self.embed(h), told], -1)
        return self.logit(h, e, v), torch.cat([h, mean.unsqueeze(-1)], -1), told

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in L events of each of b entities.

        Parameters
        ----------
        x : ``(b, L, D)`` float32, raw, padded on the right.
        state : ``(b, S)`` float32, before the first event.

        Returns
        -------
        logit ``(b, L)``, the state after the last event ``(b, S)``, embeddings ``(b, L, E)``, with the surprise behind
        them where there is one; of padding they are outputs too, which the caller leaves out.
        """
        hidden, e, v = self.hidden(x, state)
        logit, told = self.logit(hidden, e, v), self._embedding(hidden)
        if not hidden.shape[1]:
            return logit, state, told if self.surprise is None else told.new_zeros((len(x), 0, self.embedding + 1))
        if self.surprise is None:
            return logit, hidden[:, -1], told
        course, there = self.courses(x, state)
        told = torch.cat([told, self.surprise.told(course, there).unsqueeze(-1)], -1)
        return logit, torch.cat([hidden[:, -1], course[:, -1:]], -1), told

    def courses(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``(b, L)`` the running mean of the surprise after each event, and whether the event said anything (1 or 0).

        Parameters are those of ``sequence``, with at least one event.
        """
        assert self.surprise is not None
        hidden, _, v = self.hidden(x, state)
        error, there = self.surprise.errors(x, v, self.before(hidden, state))
        course, out = state[:, -1], []
        for t in range(x.shape[1]):
            course = self.surprise.taken(course, error[:, t], there[:, t])
            out.append(course)
        return torch.stack(out, 1), there

    def before(self, hidden: Tensor, state: Tensor) -> Tensor:
        """``(b, L, H)`` the state before each event, from those after each and the one at the beginning ``(b, S)``."""
        return torch.cat([state[:, None, : self.config.hidden], hidden[:, :-1]], 1)

    def hidden(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(b, L, D)`` to the states after each event ``(b, L, S)``, the events' codes and the normalised columns."""
        v, pieces = self.normalise(x)
        e = functional.gelu(self.enter(pieces))
        # cuDNN takes no view: with a surprise the state is one float wider than what the network carries.
        out, _ = self.gru(e, state[:, : self.config.hidden].unsqueeze(0).contiguous())
        return out, e, v

    def _cell(self, e: Tensor, state: Tensor) -> Tensor:
        w_in, w_state, b_in, b_state = self.gru.all_weights[0]
        given = functional.linear(e, w_in, b_in)  # (n, 3H): reset, update, new
        carried = functional.linear(state, w_state, b_state)
        # The bias of the state is within the product with the reset gate (cn): so does torch, whose weights these are.
        # Cho et al. reset the state itself.
        gr, gz, gn = given.chunk(3, -1)
        cr, cz, cn = carried.chunk(3, -1)
        update = torch.sigmoid(gz + cz)
        new = torch.tanh(gn + torch.sigmoid(gr + cr) * cn)
        return new + update * (state - new)  # (1 - z) * new + z * state, by one product less

    def logit(self, h: Tensor, e: Tensor, v: Tensor) -> Tensor:
        """``(b, L)`` from what ``hidden`` returns: states, the events' codes and the normalised columns."""
        mixed = functional.gelu(self.mix(torch.cat([h, e, v], -1)))
        logit: Tensor = self.out(self.drop(mixed))
        return logit.squeeze(-1)

    def _embedding(self, h: Tensor) -> Tensor:
        return h[..., :0] if self.embed is None else self.embed(h)
