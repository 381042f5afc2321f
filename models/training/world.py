"""The processes that train together, as ``torchrun`` tells of them in the environment; one process without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weir.models.errors import ModelError


@dataclass(frozen=True, slots=True)
class World:
    """One process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def share(self) -> slice:
        """Rows of a batch that this process takes."""
        return slice(self.rank, None, self.size)

    def any(self, flag: bool) -> bool:
        """Say whether ``flag`` is true in any process; every process must ask."""
        return flag if self.size == 1 else float(self.sum(torch.tensor([float(flag)]))) > 0

    def sum(self, values: Tensor) -> Tensor:
        """Add ``values`` up over the processes; the result is on the CPU."""
        if self.size == 1:
            return values.cpu()
        on_device = values.to(self.device)
        dist.all_reduce(on_device)
        return on_device.cpu()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged over the processes."""
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are set once before the training, so there is nothing to send around.
        return DistributedDataParallel(module, device_ids=ids, forward_sync_buffers=False)


def pick(device: str, local_rank: int = 0) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` to a device; CUDA that is asked for and missing is an error."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError("device is cuda and torch finds none: install a CUDA build of torch, or set device to auto")
    # Torchrun numbers the processes of a machine; each takes its own GPU.
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextmanager
def join(device: str) -> Iterator[World]:
    """Join the other processes of a ``torchrun`` (RANK, WORLD_SIZE, LOCAL_RANK), for as long as the block runs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, pick(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick(device, local)
    if chosen.type == "cuda" and torch.cuda.device_count() < size:  # NCCL refuses two processes on one GPU
        raise ModelError(
            f"{size} processes for {torch.cuda.device_count()} GPUs: set [trainer] processes to at most the number of "
            'GPUs, or device = "cpu" in [full.training] encoder'
        )
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        if joined:
            dist.destroy_process_group()
