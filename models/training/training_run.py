"""One training from data to artefact: sets the network up, runs the phases, and hands over weights and graph."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from weir.models.dataset.cut import moment
from weir.models.dataset.sequences import next_events
from weir.models.dataset.split import train_rows, validation_rows
from weir.models.encoder import Encoder, EncoderConfig, Normaliser
from weir.models.errors import ModelError
from weir.models.manifest import code_version
from weir.models.training.encoder_builder import CONFIG, WEIGHTS, silent
from weir.models.training.feed import Feed
from weir.models.training.loop import Loop, OnEpoch, told_rows
from weir.models.training.network import TrainableNetwork
from weir.models.training.nextevent import NextHeads, NextSpec
from weir.models.training.phases import phases
from weir.models.training.training_settings import EncoderSettings
from weir.models.training.world import World, join
from weir.models.types import Built, Float32Matrix, FloatVector, Progress, TrainingSet

_ROWS = 200_000
_REMEMBERED = 256
"""Events before those that the surprise is measured on: a state that serves has seen more than a chunk's few."""
_FLAT = 1e-6


def fit(normaliser: Normaliser, x: Float32Matrix) -> None:
    """Set its buffers from raw columns ``(n, D)``; at most 200,000 rows, evenly spaced, are looked at.

    A column is taken by its signed logarithm where that makes it less skewed. Knots are quantiles of the distinct-ish
    values: equal quantiles fall together, and their piece is left out (slope 0).
    """
    sample = x[:: max(1, len(x) // _ROWS)].astype(np.float64)
    knots = normaliser.low.shape[1]
    log = np.zeros(x.shape[1])
    mean, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    low, slope = np.zeros((x.shape[1], knots)), np.zeros((x.shape[1], knots))
    for j in range(x.shape[1] if len(sample) else 0):
        v = sample[:, j]
        squeezed = np.sign(v) * np.log1p(np.abs(v))
        # Columns within -1 to 1 are shares or flags, whose scale is right.
        log[j] = np.abs(v).max() > 1 and abs(_skew(squeezed)) < abs(_skew(v))
        v = squeezed if log[j] else v
        mean[j], spread = v.mean(), v.std()
        scale[j] = 1 / spread if spread > _FLAT else 0.0  # a constant column says nothing
        v = np.clip((v - mean[j]) * scale[j], -normaliser.clip, normaliser.clip)
        low[j], slope[j] = _pieces(v, knots)
    for name, value in (("log", log), ("mean", mean), ("scale", scale), ("low", low), ("slope", slope)):
        getattr(normaliser, name).copy_(torch.from_numpy(value.astype(np.float32)))


def _skew(v: FloatVector) -> float:
    spread = v.std()
    return float((((v - v.mean()) / spread) ** 3).mean()) if spread > _FLAT else 0.0


def _pieces(v: FloatVector, knots: int) -> tuple[FloatVector, FloatVector]:
    """Where the pieces begin and one over their widths: quantiles of the values, a frequent value counted once."""
    values, counts = np.unique(v, return_counts=True)
    # Else most quantiles of a column that is mostly 0 would be 0, and say nothing of the rest.
    often = counts > len(v) / max(knots, 1)
    rest = np.repeat(
        values, np.where(often, np.maximum(counts[~often].mean() if (~often).any() else 1, 1), counts).astype(int)
    )
    edges = np.unique(np.quantile(rest, np.linspace(0, 1, knots + 1)))
    low, slope = np.zeros(knots), np.zeros(knots)
    low[: len(edges) - 1] = edges[:-1]
    slope[: len(edges) - 1] = 1 / np.maximum(np.diff(edges), _FLAT)
    return low, slope


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
        _calibrate(loop)
        loop.network.cpu().eval()
    return loop


def _calibrate(loop: Loop) -> None:
    """Tell the surprise what is usual: validation, of which it has learned nothing, but for what is labelled positive.

    An event without any of the columns says nothing, and counts as what came before it did.
    """
    encoder, history, s = loop.network.encoder, loop.feed.history, loop.settings
    if encoder.surprise is None:
        return
    usual = history.ts >= loop.valid_from
    usual[loop.validation.row[loop.validation.y]] = False

    def course(x: torch.Tensor) -> torch.Tensor:
        return encoder.courses(x, x.new_zeros((len(x), encoder.state)))[0]

    told = told_rows(
        encoder, course, history, loop.feed.timeline, np.flatnonzero(usual), s.length, max(s.warmup, _REMEMBERED),
        4 * s.batch, loop.world,
    )  # fmt: skip
    encoder.surprise.calibrate(told)


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
            f"no label was known before the validation begins at {moment(data.valid_from)}: "
            "lengthen window or shorten validation in [full.training]"
        )
    # A blend that serves may have left the encoder out, at weight 0: then there is nothing to go on from.
    holds = warm_start is not None and not {WEIGHTS, CONFIG}.isdisjoint(warm_start)
    served = load(warm_start) if warm_start is not None and holds else None
    config = _config(settings, data.history.inputs)
    warm = served is not None and _same_shape(served, config)
    network = served if served is not None and warm else _fresh(settings, config, data)
    if warm:
        network.encoder.drop_out(config.dropout)  # no shape: what the task says now, not when the served one was made
    else:
        network.start_at(float(np.average(learned.y, weights=learned.weight)))
    feed = Feed(data.history, learned, settings, network.heads.spec, warm)
    newest = float(data.history.ts[learned.row].max())
    progress, stop, on_epoch = asks
    return Loop(
        network.to(world.device), feed, validation_rows(data), settings, phases(settings, warm, newest), seed, world,
        work, _fingerprint(settings, data, seed, warm_start), progress if world.rank == 0 else silent, stop, on_epoch,
        warm, data.valid_from,
    )  # fmt: skip


def _config(settings: EncoderSettings, inputs: tuple[str, ...]) -> EncoderConfig:
    s = settings
    predicts = tuple(name for name in inputs if any(fnmatchcase(name, pattern) for pattern in s.surprise))
    if s.surprise and not predicts:
        raise ModelError(f"surprise = {list(s.surprise)} names none of the {len(inputs)} inputs of this history")
    return EncoderConfig(inputs, s.hidden, s.embedding, s.knots, s.dropout, predicts=predicts,
                         surprise_events=s.surprise_events if predicts else 1)  # fmt: skip


def _same_shape(served: TrainableNetwork, config: EncoderConfig) -> bool:
    # All but dropout, which no weight depends on; a setting left out here would have no effect while one serves.
    return replace(served.encoder.config, dropout=config.dropout) == config


def _fresh(settings: EncoderSettings, config: EncoderConfig, data: TrainingSet) -> TrainableNetwork:
    """Make an untrained network that knows the scale of the history before the validation rows."""
    spec = NextSpec.of(data.history, settings.buckets, settings.negatives)
    network = TrainableNetwork(Encoder(config), NextHeads(spec, config.hidden))
    # The scale is learned, too: not from what it will be validated on.
    fit(network.encoder.normalise, data.history.x[data.history.ts < data.valid_from])
    network.heads.fit(next_events(data.history), data.history.item)
    return network


def _fingerprint(
    settings: EncoderSettings, data: TrainingSet, seed: int, warm_start: Mapping[str, bytes] | None
) -> str:
    """Digest everything that the result depends on, also the code: weights of two codes are of no training."""
    settled = [code_version(), asdict(settings), seed, data.cutoff, data.valid_from]
    digest = hashlib.sha256(json.dumps(settled).encode())
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
    config = network.encoder.config
    # Without a surprise the document is what it was before there were any, which an older version trains on from, too.
    new = () if config.predicts else ("predicts", "surprise_events")
    told = {
        "format": _FORMAT,
        "encoder": {name: value for name, value in asdict(config).items() if name not in new},
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
        shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told["encoder"].items()}
        config, spec = EncoderConfig(**shape), NextSpec(**told["next"])
        # Making a network draws its weights; the draws of a training must not depend on that.
        with torch.random.fork_rng():
            network = TrainableNetwork(Encoder(config), NextHeads(spec, config.hidden))
        network.load_state_dict(load_tensors(files[WEIGHTS]))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"this artefact cannot be read ({exc}): train without a warm start") from exc
    return network
