"""From an update's address to a model that can score: fetched, every byte checked, tried, warm. Run it in a thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from weir.models.errors import ModelError
from weir.models.serving.model_runner import FullRunner
from weir.models.serving.session import Provider, choose_provider
from weir.models.serving.state_row import StateLayout
from weir.models.types import StepModel
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.config.model_settings import ModelSettings
from weir.streams.offline_models.model_updates import Ref
from weir.streams.offline_models.serving import FullModels, FullTask
from weir.streams.ops.metrics import Metrics

log = logging.getLogger(__name__)


def full_models(
    tasks: Iterable[TaskSpec], settings: ModelSettings, metrics: Metrics | None = None, *, remote: bool = False
) -> FullModels:
    """The full models of those tasks that have one that is run here: not loaded.

    Parameters
    ----------
    settings : where they may lie, and what they run on.
    remote : whether this is an inference worker; it runs those whose ``[full] remote`` says so, and nobody else does.
    """
    here = [(task, task.full) for task in tasks if task.full is not None and task.full.remote == remote]
    return FullModels([_full_task(task, spec, settings) for task, spec in here], metrics)


def _full_task(task: TaskSpec, spec: FullSpec, settings: ModelSettings) -> FullTask:
    """One task's runner and loader; raises ``TaskError`` where the task cannot run."""
    layout = StateLayout(spec.state, spec.history, full_inputs(task))
    runner = FullRunner(layout, spec.embedding, spec.reasons, bool(spec.surprise))
    return FullTask(task.name, runner, lambda ref: load(task.name, ref, runner, settings))


def full_inputs(task: TaskSpec) -> tuple[str, ...]:
    """Names of the columns of the full model's ``x``; none where the task has no full model."""
    return shape_of(task).full_inputs


def load(task: str, ref: Ref, runner: FullRunner, settings: ModelSettings) -> StepModel:
    """Fetch, check and warm an artefact of our registry; of another that is trusted where the update says so.

    Whoever can write an update cannot choose what is loaded: the registry has to be one of ours, its log of stages has
    to have moved the version, and its manifest has to have the digest.

    Raises
    ------
    ModelError
        The artefact is missing, incomplete, corrupt, truncated or another than the update means; it never left the
        stage of a candidate; its graph cannot be served; it does not fit the task; or the provider is not there.
    """
    # Imported here: a process that loads no model does not wait for ONNX Runtime.
    from weir.models.manifest import GRAPH
    from weir.models.registry.artefact import check_artefact
    from weir.models.registry.registry import Registry
    from weir.models.serving.occlusion import USUAL_FILE, Baseline
    from weir.models.serving.ort_model import OrtModel

    held = Registry(_registry_of(task, ref, (settings.registry, *settings.trusted)))
    artefact = held.load(task, ref.version, ref.digest)
    # Whoever can write model-updates may still not write the registry: its log is the second witness.
    if held.stages(task).of(ref.version) == "candidate":
        raise ModelError(
            f"{artefact.manifest.name}: the registry's own log never moved it to a stage, so this update is not of its "
            f"making; if it shall serve: weir models promote {task} {ref.version}"
        )
    check_artefact(artefact)
    manifest = artefact.manifest
    graph, precision = manifest.graph(settings.precision), settings.precision
    if graph is None:
        # Once a load, so once a version: that a better graph is missing is no reason to serve none.
        graph, precision = GRAPH, "float32"
        log.warning("task %s: version %d has no %s graph: it serves in float32", task, ref.version, settings.precision)
    model = OrtModel.load(
        artefact.files[graph], ref.version, manifest.inputs, provider=settings.provider, threads=settings.threads
    )
    model.precision = precision
    if (usual := artefact.files.get(USUAL_FILE)) is not None:
        model.usual = Baseline.decode(usual, len(manifest.inputs))
    # Last, when it can score: a model of another width of state must be refused before a swap, not by the first batch.
    runner.slots.check(model)
    return model


def require_provider(models: FullModels, provider: Provider) -> None:
    """Raise ``ModelError`` where there are models to run, and what they are to run on is not there."""
    if not models.tasks:
        return
    try:
        import onnxruntime
    except ImportError as exc:
        raise ModelError("a task with [full] needs onnxruntime: pip install 'weir[cpu]' or 'weir[gpu]'") from exc
    choose_provider(provider, onnxruntime.get_available_providers())


def _registry_of(task: str, ref: Ref, registries: Sequence[str]) -> str:
    """The registry in which a version lies: the first, or that of an address that is whole, if it is one of ours.

    >>> _registry_of("fraud", Ref(3, "fraud/3", ""), ["/mnt/models"])
    '/mnt/models'
    >>> _registry_of("fraud", Ref(3, "s3://bucket/models/fraud/3", ""), ["/mnt/models", "s3://bucket"])
    's3://bucket/models'
    """
    from weir.models.registry.registry import split_uri

    url, *named = split_uri(ref.uri.rstrip("/"))
    if named != [task, ref.version]:
        raise ModelError(
            f"{ref.uri}: the address of version {ref.version} of task {task!r} ends in "
            f"{task}/{ref.version}; correct uri"
        )
    if url and not any(_within(url, root) for root in registries):
        raise ModelError(
            f"{ref.uri}: its registry {url} is not {registries[0]}, which [models] registry names, nor below one of "
            "[models] trusted; add it there if it is yours"
        )
    return url or registries[0]


def _within(url: str, root: str) -> bool:
    """Whether an address is ``root`` or below it.

    >>> [_within(url, "s3://b/models") for url in ("s3://b/models/eu", "s3://b/models-x", "s3://b/models/../x")]
    [True, False, False]
    """
    if {"..", "."} & set(url.split("/")):  # '..' could lead out of a directory that is trusted
        return False
    parts, want = (_whole(address).split("/") for address in (url, root))
    return parts[: len(want)] == want


def _whole(address: str) -> str:
    address = address.removeprefix("file://").rstrip("/")
    return address if "://" in address else str(Path(address).absolute())
