"""The file of ``docker compose``, as it is read with its variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from weir.streams.config.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*)|:\?[^}]*)?\}")
PASSWORD = "drawn-by-init"
"""Stands for what deploy/init draws."""


def compose(**variables: str) -> dict[str, Any]:
    """The file as Compose reads it: anchors merged, variables replaced."""
    text = (ROOT / "docker-compose.yml").read_text()
    given = {"REDIS_PASSWORD": PASSWORD, "POSTGRES_PASSWORD": PASSWORD, **variables}
    found: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(lambda m: given.get(m[1], m[2] or ""), text))
    return found


SERVICES: dict[str, dict[str, Any]] = compose()["services"]


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Path in the container to path here, of what is mounted from the repository."""
    pairs = [volume.split(":")[:2] for volume in service.get("volumes", ())]
    return {inside: outside for outside, inside in pairs if outside.startswith((".", "/"))}


def settings_of(name: str) -> Settings:
    """What a container of this service would load."""
    environ = dict(SERVICES[name]["environment"])
    return load_settings(ROOT / mounts(SERVICES[name])[environ.pop("WEIR_CONFIG")], environ)
