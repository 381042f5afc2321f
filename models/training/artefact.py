"""A trained network as files, ``weights.safetensors`` and ``encoder.json``, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from weir.models.encoder import Encoder, EncoderConfig
from weir.models.errors import ModelError
from weir.models.training.encoder_builder import CONFIG, WEIGHTS
from weir.models.training.network import TrainableNetwork
from weir.models.training.nextevent import NextHeads, NextSpec

_FORMAT = 1


def files_of(network: TrainableNetwork, more: Mapping[str, Any]) -> dict[str, bytes]:
    """Files from which training can go on; ``more`` is kept in the JSON for readers."""
    told = {
        "format": _FORMAT,
        "encoder": asdict(network.encoder.config),
        "next": asdict(network.heads.spec),
        **more,
    }
    weights = {name: v.cpu().contiguous() for name, v in network.state_dict().items()}
    return {WEIGHTS: save(weights), CONFIG: json.dumps(told, indent=2, sort_keys=True).encode()}


def load(files: Mapping[str, bytes]) -> TrainableNetwork:
    """The network that `files_of` wrote.

    Raises
    ------
    ModelError
        A file is missing or damaged, or of another format.
    """
    missing = [name for name in (WEIGHTS, CONFIG) if name not in files]
    if missing:
        raise ModelError(f"this artefact lacks {', '.join(missing)}: train without a warm start")
    try:
        told = json.loads(files[CONFIG])
        if told["format"] != _FORMAT:
            raise ModelError(f"{CONFIG} has format {told['format']}, this version reads {_FORMAT}")
        shape = told["encoder"] | {"inputs": tuple(told["encoder"]["inputs"])}
        config, spec = EncoderConfig(**shape), NextSpec(**told["next"])
        # Making a network draws its weights; the draws of a training must not depend on that.
        with torch.random.fork_rng():
            network = TrainableNetwork(Encoder(config), NextHeads(spec, config.hidden))
        network.load_state_dict(load_tensors(files[WEIGHTS]))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"this artefact cannot be read ({exc}): train without a warm start") from exc
    return network
