"""The sequence encoder: a recurrent network that carries one vector for each entity.

It takes the logged features of an event, raw: they are normalised inside, so that its graph needs nothing else. The
other entities of an event (merchant or terminal, device) come in through the feature columns of their windows, and the
time since the entity's previous event through a column such as ``user.events_since_last``; the network itself follows
the task's own entity only. It knows neither labels nor how it is trained (``weir.models.training``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from weir.models.errors import ModelError


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

    def __post_init__(self) -> None:
        if not self.inputs or self.hidden < 1 or self.embedding < 0 or self.knots < 0:
            raise ModelError(
                f"an encoder of {len(self.inputs)} inputs, {self.hidden} hidden, {self.embedding} embedding and "
                f"{self.knots} knots: at least 1, 1, 0 and 0 are needed"
            )


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
        self.register_buffer("log", torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("low", torch.zeros(width, knots))
        self.register_buffer("slope", torch.zeros(width, knots))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., D)`` raw to normalised columns ``(..., D)``, and these with their pieces ``(..., D * (1 + K))``."""
        squeezed = torch.sign(x) * torch.log1p(torch.abs(x))
        v = (torch.where(self.log > 0, squeezed, x) - self.mean) * self.scale
        # One absurd amount must not drown the other columns, nor what comes later through the state.
        v = torch.clamp(v, -self.clip, self.clip)
        if self.low.shape[1] == 0:
            return v, v
        pieces = torch.clamp((v.unsqueeze(-1) - self.low) * self.slope, 0.0, 1.0)  # (..., D, K)
        return v, torch.cat([v, pieces.flatten(-2)], -1)


class Encoder(nn.Module):
    """GRU over the events of an entity (Cho et al. 2014); its head sees the state, the event's code and its columns.

    A zero state is an entity never seen. ``step`` is ``sequence`` of length 1, written out in plain products so that it
    exports to any runtime; both agree to 1e-5.
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

    @property
    def inputs(self) -> tuple[str, ...]:
        """D names of the columns of x."""
        return self.config.inputs

    @property
    def state(self) -> int:
        """S: floats carried for each entity."""
        return self.config.hidden

    @property
    def embedding(self) -> int:
        """E, the coordinates of the embedding; 0 for none."""
        return self.config.embedding

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in the next event of each of n entities.

        Parameters
        ----------
        x : ``(n, D)`` float32, raw.
        state : ``(n, S)`` float32.

        Returns
        -------
        logit ``(n,)``, the next state ``(n, S)``, embedding ``(n, E)``.
        """
        v, pieces = self.normalise(x)
        e = functional.gelu(self.enter(pieces))
        h = self._cell(e, state)
        return self.logit(h, e, v), h, self._embedding(h)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in L events of each of b entities.

        Parameters
        ----------
        x : ``(b, L, D)`` float32, raw, padded on the right.
        state : ``(b, S)`` float32, before the first event.

        Returns
        -------
        logit ``(b, L)``, the state after the last event ``(b, S)``, embeddings ``(b, L, E)``; of padding they are
        outputs too, which the caller leaves out.
        """
        hidden, e, v = self.hidden(x, state)
        return self.logit(hidden, e, v), hidden[:, -1] if hidden.shape[1] else state, self._embedding(hidden)

    def hidden(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(b, L, D)`` to the states after each event ``(b, L, S)``, the events' codes and the normalised columns."""
        v, pieces = self.normalise(x)
        e = functional.gelu(self.enter(pieces))
        out, _ = self.gru(e, state.unsqueeze(0).contiguous())
        return out, e, v

    def _cell(self, e: Tensor, state: Tensor) -> Tensor:
        w_in, w_state, b_in, b_state = self.gru.all_weights[0]
        given = functional.linear(e, w_in, b_in)  # (n, 3H): reset, update, new
        carried = functional.linear(state, w_state, b_state)
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
