"""What every start of a broker would do again, done once for all brokers and processes: half of the work of a start.

The archive holds Kafka's classes as Java has read and verified them. The checkpoint holds the features of a new
cluster, as ``StorageTool format`` writes them. Both are kept in ``build/``, under a name that tells Java and the jars.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BUILD = Path(__file__).resolve().parents[2] / "build"


@dataclass(frozen=True)
class Prepared:
    """Files that brokers share; one that is not there, as of a Java without archives, costs time only."""

    classes: Path
    checkpoint: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """Of Java."""
        return (f"-XX:SharedArchiveFile={self.classes}",) if self.classes.exists() else ()

    def format(self, data: Path, cluster_id: str, node_id: int) -> None:
        """Make the folder of a new node as ``StorageTool format`` does, without Java. A name begins with no hyphen."""
        data.mkdir()
        shutil.copy(self.checkpoint, data)
        own = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "_")
        lines = ("version=1", f"cluster.id={cluster_id}", f"node.id={node_id}", f"directory.id={own}")
        (data / "meta.properties").write_text("".join(f"{line}\n" for line in lines))


def prepared(libs: Path, make: Callable[[Prepared], None]) -> Prepared:
    """What brokers from a folder of jars share; ``make`` writes it where no process has yet."""
    kept = _BUILD / f"kafka-{_fingerprint(libs)}"
    found = Prepared(kept / "classes.jsa", kept / "bootstrap.checkpoint")
    _BUILD.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            part = kept.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            make(Prepared(part / found.classes.name, part / found.checkpoint.name))
            part.rename(kept)
    return found


@cache
def _fingerprint(libs: Path) -> str:
    java = Path(str(shutil.which("java"))).resolve()
    each = [(path, path.stat()) for path in (java, *sorted(libs.iterdir()))]
    told = "".join(f"{path} {stat.st_size} {stat.st_mtime_ns}\n" for path, stat in each)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
