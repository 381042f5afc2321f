"""One training from data to artefact: sets the network up, runs the phases, and hands over weights and graph."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from weir.models.dataset.sequences import next_events
from weir.models.dataset.split import train_rows, validation_rows
from weir.models.encoder import Encoder, EncoderConfig
from weir.models.errors import ModelError
from weir.models.training.encoder_builder import CONFIG, WEIGHTS, silent
from weir.models.training.feed import Feed
from weir.models.training.loop import Loop, OnEpoch
from weir.models.training.network import TrainableNetwork
from weir.models.training.nextevent import NextHeads, NextSpec
from weir.models.training.normalise import fit
from weir.models.training.phases import phases
from weir.models.training.training_settings import EncoderSettings
from weir.models.training.world import World, join
from weir.models.types import Built, Progress, TrainingSet

Asks = tuple[Progress, Callable[[], bool], OnEpoch]


def train(
    settings: EncoderSettings,
    data: TrainingSet,
    work: Path,
    seed: int,
    warm_start: Mapping[str, bytes] | None,
    progress: Progress,
    stop: Callable[[], bool],
) -> Built:
    """See ``EncoderBuilder.build``."""
    from weir.models.onnx.export import export_encoder

    began = time.perf_counter()
    loop = fitted(settings, data, work, seed, warm_start, (progress, stop, lambda *_: None))
    encoder = loop.network.encoder
    return Built(
        kind="encoder",
        onnx=export_encoder(encoder),
        inputs=encoder.inputs,
        state=encoder.state,
        embedding=encoder.embedding,
        files=files_of(loop.network, {"seed": seed, "settings": asdict(settings), "epochs": loop.at.epochs}),
        metrics=metrics_of(loop) | {"seconds": time.perf_counter() - began},
        seed=seed,
    )


def fitted(
    settings: EncoderSettings,
    data: TrainingSet,
    work: Path,
    seed: int,
    warm_start: Mapping[str, bytes] | None,
    asks: Asks,
) -> Loop:
    """Train, on the processor at the end; the random numbers of others are left as they were."""
    with join(settings.device) as world, torch.random.fork_rng():
        torch.manual_seed(seed)
        loop = _loop(settings, data, work, seed, warm_start, world, asks)
        loop.run()
        loop.network.cpu().eval()
    return loop


def metrics_of(loop: Loop) -> dict[str, float]:
    """Collect the metrics of a training; ``valid_*`` are those of the weights that were kept."""
    return {
        **{f"valid_{name}": value for name, value in loop.at.found.items() if np.isfinite(value)},
        "valid_labels": float(len(loop.validation)),
        "labels": float(np.count_nonzero(loop.feed.labelled())),
        "epochs": float(len(loop.at.epochs)),
        "warm_start": float(loop.check_first),
    }


def _loop(
    settings: EncoderSettings,
    data: TrainingSet,
    work: Path,
    seed: int,
    warm_start: Mapping[str, bytes] | None,
    world: World,
    asks: Asks,
) -> Loop:
    learned = train_rows(data)
    if len(learned) == 0:
        raise ModelError(
            f"no label was known before the validation begins at {data.valid_from:.0f}: "
            "lengthen window or shorten validation in [full.training]"
        )
    served = load(warm_start) if warm_start is not None else None
    config = _config(settings, data.history.inputs)
    warm = served is not None and served.encoder.config.inputs == config.inputs and _same_shape(served, config)
    network = served if served is not None and warm else _fresh(settings, config, data)
    if not warm:
        network.start_at(float(np.average(learned.y, weights=learned.weight)))
    feed = Feed(data.history, learned, settings, network.heads.spec, warm)
    newest = float(data.history.ts[learned.row].max())
    progress, stop, on_epoch = asks
    return Loop(
        network.to(world.device), feed, validation_rows(data), settings, phases(settings, warm, newest), seed, world,
        work, _fingerprint(settings, data, seed, warm_start), progress if world.rank == 0 else silent, stop, on_epoch,
        warm,
    )  # fmt: skip


def _config(settings: EncoderSettings, inputs: tuple[str, ...]) -> EncoderConfig:
    s = settings
    return EncoderConfig(inputs, s.hidden, s.embedding, s.knots, s.dropout)


def _same_shape(served: TrainableNetwork, config: EncoderConfig) -> bool:
    c = served.encoder.config
    return (c.hidden, c.embedding) == (config.hidden, config.embedding)


def _fresh(settings: EncoderSettings, config: EncoderConfig, data: TrainingSet) -> TrainableNetwork:
    """Make an untrained network that knows the scale of the history before the validation rows."""
    spec = NextSpec.of(data.history, settings.buckets, settings.negatives)
    network = TrainableNetwork(Encoder(config), NextHeads(spec, config.hidden))
    fit(network.encoder.normalise, data.history.x[data.history.ts < data.valid_from])
    network.heads.fit(next_events(data.history), data.history.item)
    return network


def _fingerprint(
    settings: EncoderSettings, data: TrainingSet, seed: int, warm_start: Mapping[str, bytes] | None
) -> str:
    """Digest everything that the result depends on."""
    digest = hashlib.sha256(json.dumps([asdict(settings), seed, data.cutoff, data.valid_from]).encode())
    digest.update(json.dumps([data.history.inputs, data.history.types]).encode())
    h, of = data.history, data.labels
    for array in (h.entity, h.ts, h.x, h.type, h.amount, h.item, of.row, of.y, of.weight, of.known_at):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    for name, content in sorted((warm_start or {}).items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


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
