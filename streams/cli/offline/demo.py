"""``weir demo``: everything at once, for about a minute.

It knows arguments, signals and the terminal; what runs is ``weir.streams.demo``, what is drawn
``weir.streams.demo.screen``.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.errors import UsageError
from weir.streams.ops.file_lock import lock_file
from weir.streams.ops.stop_request import StopRequest, interruptible

if TYPE_CHECKING:
    from rich.console import Console

    from weir.streams.demo.demo_loop import Demo
    from weir.streams.demo.scenario import Scenario

_MARK = "scenario.json"
_OURS = ("log", "state", "models", "work", "console", _MARK)
_CONSOLE = ("fastapi", "jinja2", "sqlalchemy", "uvicorn")
_TRAINING = ("lightgbm", "onnx", "onnxruntime")


def demo_command(
    seconds: Annotated[
        float, typer.Option(min=1.0, max=86_400.0, help="How long the simulated period takes to show.")
    ] = 60.0,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the log, the checkpoints and the results are kept.")
    ] = Path("weir-data/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run left and start over.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="The same seed and events give the same stream.")
    ] = None,
    events: Annotated[
        int | None,
        typer.Option(min=100, max=10**10, help="Events of the period; by default what this machine can show."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=2, max=1000, help="Event time of the period, days.")] = None,
    full_speed: Annotated[bool, typer.Option("--full-speed", help="Do not keep pace; go as fast as possible.")] = False,
    checkpoint_every: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds between two checkpoints.")
    ] = 10.0,
    pages: Annotated[bool, typer.Option("--console/--no-console", help="Serve the console in the browser.")] = True,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Of the console; by default 8080 or the next free one.")
    ] = None,
) -> None:
    """Simulate users, merchants and machines, and run everything on them.

    Three tasks score the streams as they come: card fraud, churn and machine
    failures. Labels arrive days of event time later, or come from silence;
    the models learn from them while they score. After two fifths of the time
    the fraud changes its pattern: watch the metric fall, the drift being
    noticed, a full model being trained in the background, held against the
    one that serves, scored in its shadow and swapped in, and the metric come
    back. Its versions are kept in the directory: weir models list shows them.

    The console shows the same in the browser: open the link, open an alert
    and give a verdict; the model learns it at once. In a terminal it stays
    open after the time until Ctrl-C.

    Ctrl-C stops cleanly; the next run goes on where this one stopped, also
    after a crash. The task files are in streams/demo/tasks: copy one.

    For example:

        weir demo

        weir demo --seconds 180 --fresh

        weir demo --events 200000 --full-speed --dir /tmp/demo

        weir demo > demo.log
    """
    from rich.console import Console

    from weir.streams.demo.demo_loop import Pace
    from weir.streams.demo.screen.display import DemoDisplay, render_summary

    console = Console()
    _require_extra()
    directory = directory.absolute()
    with _only_one(directory):
        try:
            given = {"seed": seed, "events": events, "days": days}
            scenario = _scenario(directory, fresh, given, seconds, console)
        except KeyboardInterrupt:
            console.print("Stopped before anything was run.")
            raise typer.Exit(128 + signal.SIGINT) from None
        with (
            interruptible() as asked,
            _opened(directory, scenario, asked, console) as demo,
            _served(demo, port, console) if pages else nullcontext(),
        ):
            with closing(DemoDisplay(console)) as display:
                result = demo.run(Pace(seconds, full_speed, checkpoint_every), display.update)
            files = [(what, from_here(path)) for what, path in result.files]
            console.print(render_summary(result.snapshot, files, console.width))
            stopped = asked.number
            if stopped is None and demo.link and sys.stdout.isatty():
                console.print(f"The console stays open until Ctrl-C: {demo.link}", soft_wrap=True, highlight=False)
                demo.stay()
    if stopped is not None:
        console.print("Stopped; run it again to go on from here.")
        raise typer.Exit(128 + stopped)
    if not result.at_end:
        console.print("This machine was too slow for the whole period; run it again to go on, or give --events.")


def from_here(path: str) -> str:
    """The path as it is called from the directory at hand, where it is in that: shorter, and as good to copy."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path


def _require_extra() -> None:
    """Raise ``UsageError`` where what trains and runs the full model is not installed."""
    missing = [name for name in _TRAINING if find_spec(name) is None]
    if missing:
        raise UsageError(f"weir demo trains a full model and needs {', '.join(missing)}: pip install 'weir[cpu]'")


@contextmanager
def _opened(directory: Path, scenario: Scenario, asked: StopRequest, console: Console) -> Iterator[Demo]:
    """The demo of a directory, where an earlier run left it."""
    from weir.streams.demo.demo_loop import Demo
    from weir.streams.demo.scenario import demo_tasks

    tasks = demo_tasks()
    with ExitStack() as stack:
        demo = stack.enter_context(closing(Demo(directory, scenario, tasks, asked)))
        if demo.complete:
            console.print("The stream of the earlier runs has ended: starting over.")
            # The log is open: what is to be removed must not be written to.
            stack.close()
            _forget(directory)
            scenario.write(directory)
            demo = stack.enter_context(closing(Demo(directory, scenario, tasks, asked)))
        elif demo.resumed_blocks:
            day = demo.resumed_blocks / scenario.blocks_per_day
            console.print(f"Going on after day {day:.1f} of the earlier run (--fresh starts over) ...", highlight=False)
        demo.skip()
        yield demo


@contextmanager
def _served(demo: Demo, port: int | None, console: Console) -> Iterator[None]:
    """The console of a demo, with its link told; without the packages that it needs, how to get them."""
    if missing := [name for name in _CONSOLE if find_spec(name) is None]:
        words = f"No console in the browser: it needs {', '.join(missing)}; pip install 'weir[serve]' gets them."
        console.print(words, markup=False, highlight=False)
        yield
        return
    from weir.streams.demo.demo_console import DemoConsole

    with DemoConsole(demo, port) as pages:
        # What the service says must not end up in the middle of the screen.
        logging.basicConfig(filename=pages.directory / "console.log", level=logging.INFO)
        console.print(f"Console: {demo.link}", soft_wrap=True, highlight=False)
        yield


def _scenario(
    directory: Path, fresh: bool, given: Mapping[str, int | None], seconds: float, console: Console
) -> Scenario:
    """The scenario to go on with, or a new one for a directory that has none or is to start over.

    ``given`` holds the numbers that options may say; what they do not say is the scenario's own choice.
    """
    from weir.streams.demo.demo_warmup import measured_rate, planned_events, warm_up
    from weir.streams.demo.scenario import Scenario, demo_tasks

    tasks, said = demo_tasks(), {name: value for name, value in given.items() if value is not None}
    # The scenario is written before anything else and removed last: what stands here without one is somebody else's.
    if not (directory / _MARK).exists() and (held := [name for name in _OURS if (directory / name).exists()]):
        raise UsageError(f"{directory} holds {', '.join(held)}, which no demo made: give another --dir")
    stored = None if fresh else Scenario.read(directory)
    if fresh:
        _forget(directory)
    for name, value in said.items() if stored is not None else ():
        if value != (held := getattr(stored, name)):
            raise UsageError(f"--{name} {value}: the run in this directory has {held}; add --fresh to start over")
    began = time.perf_counter()
    console.print("Compiling kernels (half a minute or more on the first start, later seconds) ...", highlight=False)
    warm_up(tasks)
    events = {} if stored or "events" in said else {"events": planned_events(measured_rate(tasks), seconds)}
    gc.collect()
    gc.freeze()  # modules and kernels stay; the collector need not look at them again
    console.print(f"Ready after {time.perf_counter() - began:.1f} s.", highlight=False)
    if stored is not None:
        console.print("Reading the log and the state of the earlier run ...")
        return stored
    scenario = Scenario(**events, **said)
    scenario.write(directory)
    return scenario


def _forget(directory: Path) -> None:
    """Remove what a demo wrote, and nothing else."""
    from weir.streams.demo.demo_journal import FILES

    for name in (*_OURS, *FILES):
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Keep a second demo out of the directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"--dir {directory}: cannot be made ({exc.strerror})") from exc
    held = lock_file(directory / "lock", directory, "give another directory by --dir")
    try:
        yield
    finally:
        os.close(held)
