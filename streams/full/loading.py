"""From an update's address to a model that can score: fetched, every byte checked, tried, warm. Run it in a thread."""

from __future__ import annotations

from collections.abc import Iterable

from models.inference.runner import FullRunner
from models.inference.session import Provider, choose_provider
from models.types import ModelError, StepModel
from online.full import FullSpec
from online.task import TaskSpec
from online.taskshape import shape_of
from streams.full.serving import FullModels, FullTask
from streams.full.updates import Ref
from streams.ops.metrics import Metrics


def full_models(
    tasks: Iterable[TaskSpec],
    provider: Provider = "auto",
    threads: int = 1,
    metrics: Metrics | None = None,
    *,
    registry: str,
    remote: bool = False,
) -> FullModels:
    """The full models of those tasks that have one that is run here: not loaded.

    Parameters
    ----------
    provider, threads, registry : what they run on, and where they lie; see ``[models]`` of the settings.
    remote : whether this is an inference worker; it runs those whose ``[full] remote`` says so, and nobody else does.
    """
    here = [(task, task.full) for task in tasks if task.full is not None and task.full.remote == remote]
    return FullModels([full_task(task, spec, provider, threads, registry) for task, spec in here], metrics)


def full_task(task: TaskSpec, spec: FullSpec, provider: Provider, threads: int, registry: str) -> FullTask:
    """One task's runner and loader; raises ``TaskError`` where the task cannot run."""
    runner = FullRunner(spec, full_inputs(task))
    return FullTask(task.name, runner, lambda ref: load(task.name, ref, runner, registry, provider, threads))


def full_inputs(task: TaskSpec) -> tuple[str, ...]:
    """Names of the columns of the full model's ``x``; none where the task has no full model."""
    return shape_of(task).full_inputs


def load(task: str, ref: Ref, runner: FullRunner, registry: str, provider: Provider, threads: int = 1) -> StepModel:
    """Fetch, check and warm an artefact; ``registry`` is where it lies, unless the update itself says where.

    Raises
    ------
    ModelError
        The artefact is missing, incomplete, corrupt, truncated or another than the update means; its graph cannot be
        served; it does not fit the task; or the provider is not there.
    """
    from models.inference.occlusion import USUAL_FILE, Usual
    from models.inference.ort import OrtModel
    from models.registry import Registry
    from models.registry.artefact import check_artefact

    artefact = Registry(_registry_of(task, ref, registry)).load(task, ref.version, ref.digest)
    check_artefact(artefact)
    manifest = artefact.manifest
    model = OrtModel.load(artefact.onnx, ref.version, manifest.inputs, provider=provider, threads=threads)
    if (usual := artefact.files.get(USUAL_FILE)) is not None:
        model.usual = Usual.decode(usual, len(manifest.inputs))
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


def _registry_of(task: str, ref: Ref, registry: str) -> str:
    """The registry in which a version lies: this process's own, or that of an address that is whole.

    >>> _registry_of("fraud", Ref(3, "fraud/3", ""), "/mnt/models")
    '/mnt/models'
    >>> _registry_of("fraud", Ref(3, "s3://bucket/models/fraud/3", ""), "/mnt/models")
    's3://bucket/models'
    """
    from models.registry import split_uri

    url, *named = split_uri(ref.uri.rstrip("/"))
    if named != [task, ref.version]:
        raise ModelError(
            f"{ref.uri}: the address of version {ref.version} of task {task!r} ends in "
            f"{task}/{ref.version}; correct uri"
        )
    return url or registry
