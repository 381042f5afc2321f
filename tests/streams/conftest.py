"""What several modules share: an uninterrupted run of the embedded host, and the task and registry of full models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.streams.full_graphs import TASK, Models
from tests.streams.host_runs import Straight, straight_run
from weir.online.task.spec import TaskSpec
from weir.streams.offline_models.loading import full_inputs
from weir.streams.task_files import load_task


@pytest.fixture(scope="session")
def straight() -> Straight:
    return straight_run()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    path = tmp_path_factory.mktemp("task") / "spend.toml"
    path.write_text(TASK)
    return load_task(path)


@pytest.fixture
def own(task: TaskSpec, tmp_path: Path) -> Models:
    """A registry of the test's own with one good version."""
    models = Models(tmp_path / "registry", task, full_inputs(task))
    models.register()
    return models
