"""A registry on every storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from weir.models.registry.registry import Registry


@pytest.fixture(params=["directory", "file url", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    urls = {"directory": str(tmp_path / "r"), "file url": f"file://{tmp_path}/r", "memory": f"memory://{tmp_path.name}"}
    yield Registry(urls[request.param])
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
