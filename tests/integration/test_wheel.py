"""A wheel of Weir lives beside a user's own packages called ``models``, ``online`` and ``streams``."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.integration.kafka_broker import REPOSITORY

pytestmark = pytest.mark.integration

OWN = ("models", "online", "streams")
TASK = REPOSITORY / "streams" / "demo" / "tasks" / "device_failure.toml"
USE = """
import models, online, streams
assert (models.OWN, online.OWN, streams.OWN) == ("models", "online", "streams")
import weir
print(weir.load_task(__import__("pathlib").Path({task!r})).name)
assert models.OWN == "models"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clone: what is not committed is not in it."""
    clone, out = tmp_path_factory.mktemp("clone") / "weir", tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(clone)], check=True)
    return next(out.glob("weir-*.whl"))


def test_a_wheel_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        modules = {name for name in files if name.endswith(".py")}
        links = [info.filename for info in archive.infolist() if (info.external_attr >> 16) & 0o170000 == 0o120000]
    assert {name.split("/")[0] for name in files} == {"weir"}
    assert modules == {
        "weir/__init__.py",
        "weir/client.py",
        *(f"weir/{p.relative_to(REPOSITORY)}" for folder in OWN for p in (REPOSITORY / folder).rglob("*.py")),
    }
    assert {"weir/py.typed", "weir/streams/demo/tasks/fraud.toml"} <= set(files)
    assert not links, "a wheel cannot hold links"


def test_a_wheel_beside_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(REPOSITORY / "constraints.txt"), str(wheel)], check=True)
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    for name in OWN:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"OWN = {name!r}\n")
    used = subprocess.check_output([python, "-c", USE.format(task=str(TASK))], cwd=tmp_path, text=True)
    assert used.strip() == "device_failure"
    shown = subprocess.check_output([str(home / "bin" / "weir"), "--version"], cwd=tmp_path, text=True)
    assert shown.startswith("weir ")
