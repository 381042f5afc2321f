"""Weir: models that go on learning from streams of events and late labels.

The few public names, each imported when it is first asked for:

>>> import weir
>>> sorted(name for name in dir(weir) if name[0].isupper() or name.startswith("run"))
['AsyncClient', 'Client', 'Settings', 'TaskPipeline', 'TaskSpec', 'WeirError', 'run_backtest']
>>> issubclass(weir.TaskSpec, object)
True

`Client` talks to a running ``weir serve``. ``load_task`` and
``run_backtest`` are ``weir backtest`` in two calls; ``TaskPipeline`` takes batches one by one.
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

__all__ = [
    "AsyncClient",
    "Client",
    "Settings",
    "TaskPipeline",
    "TaskSpec",
    "WeirError",
    "load_settings",
    "load_task",
    "run_backtest",
]

_HOMES = {
    "AsyncClient": "weir.streams.client.client",
    "Client": "weir.streams.client.client",
    "Settings": "weir.streams.config.settings",
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
