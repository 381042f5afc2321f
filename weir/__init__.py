"""Weir: models that go on learning from streams of events and late labels.

The few public names, each imported when it is first asked for:

>>> import weir
>>> [name for name in dir(weir) if name[0].isupper()]  # doctest: +NORMALIZE_WHITESPACE
['Answer', 'AsyncClient', 'Backtest', 'Client', 'Decision', 'Settings', 'Stream', 'Task', 'TaskPipeline', 'TaskSpec',
 'WeirError']
>>> weir.Task.from_toml('''
... name = "fraud"
... entity = "user"
... inputs = ["hour"]
... entities = [{ name = "user", key = "user_id" }]
... model = { kind = "auto" }
... ''')
Task('fraud', auto)

`Task` is a task file at a desk: ``Task.load(path).backtest(frame)`` gives a `Backtest` of Arrow tables, and
``task.stream()`` a `Stream` that scores, decides and learns event by event (docs/NOTEBOOK.md). `Client` talks to a
running ``weir serve``. Below them are ``load_task`` and ``run_backtest``, and `TaskPipeline`, which takes batches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weir.online.errors import WeirError
    from weir.online.stages.pipeline import TaskPipeline
    from weir.online.task.spec import TaskSpec
    from weir.streams.backtest.runner import run_backtest
    from weir.streams.client.client import AsyncClient, Client
    from weir.streams.config.settings import Settings, load_settings
    from weir.streams.task_files import load_task
    from weir.streams.workbench.desk import Backtest, Task
    from weir.streams.workbench.stream import Answer, Decision, Stream

__all__ = [
    "Answer",
    "AsyncClient",
    "Backtest",
    "Client",
    "Decision",
    "Settings",
    "Stream",
    "Task",
    "TaskPipeline",
    "TaskSpec",
    "WeirError",
    "load_settings",
    "load_task",
    "run_backtest",
]

_HOMES = {
    "Answer": "weir.streams.workbench.stream",
    "AsyncClient": "weir.streams.client.client",
    "Backtest": "weir.streams.workbench.desk",
    "Client": "weir.streams.client.client",
    "Decision": "weir.streams.workbench.stream",
    "Settings": "weir.streams.config.settings",
    "Stream": "weir.streams.workbench.stream",
    "Task": "weir.streams.workbench.desk",
    "TaskPipeline": "weir.online.stages.pipeline",
    "TaskSpec": "weir.online.task.spec",
    "WeirError": "weir.online.errors",
    "load_settings": "weir.streams.config.settings",
    "load_task": "weir.streams.task_files",
    "run_backtest": "weir.streams.backtest.runner",
}


def __getattr__(name: str) -> Any:
    # Not imported above: ``weir --help`` imports this package, and a task brings numba.
    if name not in _HOMES:
        raise AttributeError(f"weir has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
