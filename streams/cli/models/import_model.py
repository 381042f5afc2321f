"""``weir models import``: a model that another library trained, as a candidate for a task.

It knows arguments, files and words; the work is in ``weir.streams.trainer.job.foreign_candidate``.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli import options
from weir.streams.cli.console import bar, output, say
from weir.streams.cli.models.model_common import RegistryOption, open_registry
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.models.onnx.input_map import InputMap
    from weir.models.types import TrainingSet
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings
    from weir.streams.trainer.job.foreign_candidate import ImportOutcome
    from weir.streams.trainer.job.job_steps import Data


def import_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model, an ONNX file.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Task file, or the name of one in [worker] tasks.")],
    inputs: Annotated[
        Path | None, typer.Option("--inputs", "-i", help="Which logged feature feeds which input (TOML).")
    ] = None,
    archive: options.ArchiveOption = None,
    log: options.LogOption = None,
    registry: RegistryOption = None,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Make a candidate of a model that another library trained.

    The model is run as it came and as it would be served on logged events,
    and must say the same. It is then gated on the newest labels against the
    champion. What passes is registered: the trainer that is running, or the
    next one, has it scored beside the champion, and promotes or retires it
    by what the labels say, as a model of its own.

    Without --inputs it prints the beginning of such a file. --log may be the
    directory of a weir serve. docs/IMPORT.md has each library's export.

    Exit status 2 where the model does not pass.

    For example:

        weir models import model.onnx --task fraud.toml > map.toml

        weir models import model.onnx --task fraud --inputs map.toml

        weir models import model.onnx --task fraud.toml --inputs map.toml --log weir-data
    """
    from weir.models.onnx.foreign import checked_graph
    from weir.models.onnx.foreign_inputs import describe
    from weir.streams.trainer.job.foreign_candidate import fit_model, import_model

    settings = options.settings_of(config, bootstrap, {"models.registry": registry})
    spec, onnx = _task(task, settings), _bytes(model)
    if inputs is None:
        # On the output, and the error behind it on stderr: `> map.toml` keeps the one and shows the other.
        print(describe(checked_graph(onnx)))
        raise UsageError(
            "--inputs is missing: put what stands above into a file, with features of the task, and give it"
        )
    mapping, text = _map(inputs)
    # Before any history is read, which takes long.
    fitted = fit_model(onnx, mapping, text, spec)
    if log is not None and _of_service(log) and "registry" not in settings.models.model_fields_set:
        registry = str(log / "models")  # where a service keeps them
    held = open_registry(registry, config)
    try:
        with bar("import", before=f"{model.name} ") as advance:
            done = import_model(spec, fitted, model.name, _data(settings, archive, log), held, time.time(), advance)
    except KeyboardInterrupt:
        say("interrupted: nothing was handed to the trainer; run it again")
        raise typer.Exit(options.INTERRUPTED) from None
    _report(spec, model, done)


def _task(named: str, settings: Settings) -> TaskSpec:
    from weir.online.mistakes import did_you_mean

    if Path(named).suffix == ".toml" or Path(named).exists():
        return options.tasks_of([Path(named)], settings)[0]
    found = {spec.name: spec for spec in (options.tasks_of((), settings) if settings.worker.tasks else ())}
    if named not in found:
        raise UsageError(f"--task {named}: no task file, nor one of [worker] tasks; {did_you_mean(named, list(found))}")
    return found[named]


def _bytes(path: Path) -> bytes:
    from weir.models.onnx.foreign import FILE_MAX

    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a model in one ONNX file")
    if (size := path.stat().st_size) > FILE_MAX:  # before any of it is read
        raise UsageError(f"{path} has {size:,} bytes; the limit is {FILE_MAX:,}: give a smaller model")
    return path.read_bytes()


def _map(path: Path) -> tuple[InputMap, str]:
    from pydantic import ValidationError

    from weir.models.onnx.input_map import InputMap
    from weir.online.mistakes import mistakes, sentence, told
    from weir.online.toml_text import parse_toml
    from weir.streams.config.text_files import read_text

    text = read_text(path, "map of inputs", "correct the path")
    try:
        document = parse_toml(text, str(path))
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    try:
        return InputMap.model_validate(document), text
    except ValidationError as exc:
        wrong = [sentence(each, document) for each in mistakes(InputMap, exc, document)]
        raise UsageError(told(str(path), wrong)) from None


def _of_service(log: Path | None) -> bool:
    return log is not None and (log / "inputs").is_dir()


def _data(settings: Settings, archive: Path | None, log: Path | None) -> Data:
    """Where the history is."""
    from weir.streams.trainer.history.log_sources import EmbeddedSource
    from weir.streams.trainer.history.read_history import read_history
    from weir.streams.trainer.job.real_steps import DirectoryData, KafkaData, cut

    if log is not None and _of_service(log):
        return DirectoryData(log.absolute(), settings.limits)
    if log is None and archive is None:
        return KafkaData(settings)
    source = None if log is None else EmbeddedSource.of_directory(log)

    def read(task: TaskSpec, cutoff: float) -> TrainingSet:
        logged = asyncio.run(read_history(task, source=source, archive=archive, limits=settings.limits))
        return cut(logged, task, cutoff)

    return read


def _report(spec: TaskSpec, model: Path, done: ImportOutcome) -> None:
    verdict, counts = done.judged.verdict, done.counts
    against = f"version {done.champion}" if done.champion else "a constant"
    say(f"{model.name}: {counts['events']:,.0f} logged events, {counts['labels']:,.0f} labels; against {against}: "
        f"{verdict.reason}")  # fmt: skip
    if not done.version:
        say(f"{spec.name}: it did not pass the gate; nothing is registered")
        raise typer.Exit(2)
    output().print(f"{spec.name} v{done.version}")
    say(f"registered; the trainer (weir trainer, or weir serve) has it scored in the shadow and decides after "
        f"{spec.full.training.shadow_examples if spec.full else 0} labelled examples: weir models show {spec.name} "
        f"{done.version}")  # fmt: skip
