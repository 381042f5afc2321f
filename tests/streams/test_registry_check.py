"""``weir doctor`` and the registry of full models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weir.models.registry.files import LocalFiles
from weir.streams.checks import live_checks
from weir.streams.checks.live_checks import check_registry
from weir.streams.cli.operate.doctor import check_store


def test_the_configured_registry_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    held = tmp_path / "models"
    held.mkdir()
    config = tmp_path / "weir.toml"
    config.write_text(f'[models]\nregistry = "{held}"\n')
    assert [(c.name, c.status) for c in check_store(config)][-1] == ("registry", "OK")
    assert list(held.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = check_registry(str(tmp_path / "models"))
    assert (found.status, "not there yet" in found.found) == ("OK", True)
    assert not (tmp_path / "models").exists()


def test_a_registry_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    found = check_registry(str(tmp_path / "models"))
    assert found.status == "WARN"
    assert "workers only read" in found.fix
    assert check_registry("ftp://host/models").status == "WARN"


def test_a_store_that_overwrites_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overwrites(LocalFiles):
        def create(self, path: str, data: bytes) -> None:
            (self.root / path).write_bytes(data)

    def opened(url: str) -> Any:
        return Overwrites(url)

    monkeypatch.setattr(live_checks, "open_files", opened)
    found = check_registry(str(tmp_path))
    assert found.status == "FAIL"
    assert "If-None-Match" in found.fix
    assert list(tmp_path.iterdir()) == []
