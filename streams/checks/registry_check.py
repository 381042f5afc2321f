"""What ``weir doctor`` says of the registry of full models: whether two writers would get in each other's way there."""

from __future__ import annotations

from pathlib import Path

from weir.models.errors import ModelError
from weir.models.registry.files import LocalFiles, is_exclusive
from weir.models.registry.registry import open_files
from weir.streams.checks.findings import Check


def check_registry(url: str) -> Check:
    """Try the registry at ``url``; a directory that is not there yet is left alone, as the first version makes it."""
    name = "registry"
    try:
        files = open_files(url)
        if isinstance(files, LocalFiles) and not Path(files.root).exists():
            return Check(name, "OK", f"{files.url}: not there yet; the first version makes it")
        if is_exclusive(files):
            return Check(name, "OK", f"{files.url}: of two writers one wins")
    except ModelError as error:
        # Not a failure: whoever only serves reads the registry, and need not have the right to write.
        fix = "Mend it where a trainer runs or 'weir models' promotes; workers only read the registry."
        return Check(name, "WARN", f"cannot be written: {error}", fix)
    fix = "Set [models] registry to a directory, or to a store that honours If-None-Match."
    return Check(name, "FAIL", f"{files.url}: overwrites what another writer has just made", fix)
