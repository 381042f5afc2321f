"""Where a training stands, in one file that is replaced whole: safetensors, with the rest as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from weir.models.durable import write_durably
from weir.models.errors import ModelError

NAME = "checkpoint.safetensors"


@dataclass
class TrainingProgress:
    """Where a training stands, beside its weights."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    """Steps of this epoch that are done."""
    loss: float = 0.0
    """Sum of the losses of these steps."""
    best: float | None = None
    """Validation metric of the weights that are kept."""
    found: dict[str, float] = field(default_factory=dict)
    """Every validation metric of the weights that are kept, by name."""
    since_best: int = 0
    """Epochs of this phase since then."""
    epochs: list[dict[str, float | str]] = field(default_factory=list)
    """What each epoch came to."""


@dataclass
class Checkpoint:
    """A training that can go on: to the same bits, on a processor."""

    fingerprint: str
    """Of everything the result depends on; a checkpoint of another training is not used."""
    at: TrainingProgress
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimiser: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Replace the checkpoint in ``folder``; a reader sees the old one or the new one."""
        parts = (("model", self.model), ("best", self.best), ("optimiser", self.optimiser))
        # safetensors refuses what is not contiguous.
        tensors = {f"{part}/{name}": v.cpu().contiguous() for part, of in parts for name, v in of.items()}
        header = {"fingerprint": self.fingerprint, "at": json.dumps(asdict(self.at))}
        write_durably(folder / NAME, lambda file: file.write(save(tensors, metadata=header)))


def read(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in ``folder``; ``None`` when there is none, or it is of another training.

    Raises
    ------
    ModelError
        When the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelError(f"{path}: not a readable checkpoint ({exc}); delete it to train from the start") from exc
    if header.get("fingerprint") != fingerprint:  # other data or settings: going on would mix two trainings
        return None
    return Checkpoint(
        fingerprint,
        TrainingProgress(**json.loads(header["at"])),
        *(_part(tensors, part) for part in ("model", "best", "optimiser")),
    )


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.partition("/")[2]: v for name, v in tensors.items() if name.startswith(f"{part}/")}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Its weights and buffers, copied."""
    return {name: v.detach().clone() for name, v in module.state_dict().items()}


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of Adam as named tensors: ``3.exp_avg`` is of the fourth parameter."""
    return {f"{k}.{name}": v for k, of in optimiser.state_dict()["state"].items() for name, v in of.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_state` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        k, _, name = key.partition(".")
        state.setdefault(int(k), {})[name] = value
    # Its rates are not stored: each step sets its own (`rate_at`).
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
