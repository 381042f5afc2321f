"""What an operator sets: brokers, the feature store, topics, workers. One TOML file plus ``WEIR_*``, read only here.

``weir.toml`` (or the file that ``--config`` or ``WEIR_CONFIG`` names) holds a table per concern; the environment
overrides single keys, with two underscores between levels: ``WEIR_KAFKA__BOOTSTRAP=kafka:9092``. Secrets are never
shown by ``repr``, ``str`` or an error. Nothing here connects anywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from weir.online.codec.limits import InputLimits
from weir.online.mistakes import Mistake, mistakes, name_of, sentence, told
from weir.online.mistakes import Path as Place
from weir.online.toml_text import parse_toml
from weir.streams.config import topics
from weir.streams.config.connections import KafkaSettings, RedisSettings
from weir.streams.config.frozen_settings import Concern, SecretUrl, TlsFiles
from weir.streams.config.model_settings import ModelSettings, TrainerSettings
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.config.text_files import read_text
from weir.streams.config.topic_settings import TopicOverride, TopicSettings
from weir.streams.config.worker_settings import Role, WorkerSettings
from weir.streams.errors import UsageError

__all__ = [
    "KafkaSettings", "ModelSettings", "RedisSettings", "Role", "SecretUrl", "ServeSettings", "Settings", "TlsFiles",
    "TopicOverride", "TopicSettings", "TrainerSettings", "WorkerSettings", "load_settings",
]  # fmt: skip

BROKERS_SILENT_S: Final = 5.0
"""Brokers that did not answer, or acknowledge, for so long count as away."""
DEFAULT_FILE: Final = "weir.toml"
PREFIX: Final = "WEIR_"
_OF_SERVICES: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
"""Variables that Kubernetes gives each container for each service: of one called ``weir-redis`` they are
``WEIR_REDIS_SERVICE_HOST``, ``WEIR_REDIS_PORT`` and more."""
_SECRET: Final = re.compile(r"password|secret|token|url|key$", re.IGNORECASE)


class Settings(Concern):
    """All of it. ``Settings()`` is a broker and a Redis on this machine."""

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    limits: InputLimits = Field(default_factory=InputLimits)

    def limits_of(self, own: str) -> InputLimits:
        """What a topic of Weir's may hold: what a worker may write, all of them can read.

        >>> Settings(limits={"record_bytes": 4096}).limits_of("predictions").record_bytes
        1048588
        """
        if own in topics.INPUTS:
            return self.limits
        # A worker writes records that are larger than an input may be: features come on top.
        most = max(self.limits.record_bytes, topics.largest_record(own, self.worker.max_record_bytes))
        return self.limits.model_copy(update={"record_bytes": most})

    @model_validator(mode="after")
    def _patient(self) -> Self:
        watchdog_s, least_s = self.worker.watchdog_s, max(self.redis.timeout_s, BROKERS_SILENT_S)
        if watchdog_s and watchdog_s <= least_s:
            raise ValueError(
                f"worker.watchdog_s = {watchdog_s:g} must exceed {least_s:g}, after which a silent broker or Redis "
                f"(redis.timeout_s = {self.redis.timeout_s:g}) counts as away: to wait for them is not to hang"
            )
        return self


def load_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    bootstrap: str | None = None,
    given: Mapping[str, object] | None = None,
) -> Settings:
    """Settings from a TOML file and the environment, which wins.

    Parameters
    ----------
    path : the file; else the one that ``WEIR_CONFIG`` names, else ``weir.toml`` here if there is one.
    environ : instead of ``os.environ``, for tests.
    bootstrap : brokers that a command line named; they win over both.
    given : other values of a command line by their path, ``{"worker.role": "score"}``; ``None`` is not given.

    Raises
    ------
    UsageError
        A file that is not there, an unknown key (with the nearest known one) or a wrong value (not shown if secret).
    """
    env = os.environ if environ is None else environ
    named = path or (Path(env["WEIR_CONFIG"]) if env.get("WEIR_CONFIG") else None)
    document, where = _read(named or Path(DEFAULT_FILE), required=named is not None)
    origins: dict[tuple[str | int, ...], str] = {}
    # The environment over the file, the command line over both: the nearest to the process wins.
    for name, keys in _overrides(env).items():
        _merge(document, keys, name, env[name])
        origins[tuple(keys)] = name
    for name, value in {"kafka.bootstrap": bootstrap, **(given or {})}.items():
        if value is not None:
            _merge(document, name.split("."), f"the command line ({name})", value)
            origins[tuple(name.split("."))] = ""
    try:
        return Settings.model_validate(document)
    except ValidationError as exc:
        # `from None`: pydantic's own error shows what was given.
        raise UsageError(refusal(Settings, exc, document, where, origins)) from None


def _read(path: Path, required: bool) -> tuple[dict[str, Any], str]:
    if not required and not path.is_file():
        return {}, "the defaults"
    try:
        return parse_toml(read_text(path, "settings file", "correct --config or WEIR_CONFIG"), str(path)), str(path)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


def _overrides(env: Mapping[str, str]) -> dict[str, list[str]]:
    """Variables that are settings, with their path; one underscore where two were meant is an error."""
    found: dict[str, list[str]] = {}
    for name in sorted(env):
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        if path[:2] in (["topics", "override"], ["topics", "names"]) and len(path) > 2:
            path[2] = path[2].replace("_", "-")  # no shell lets a variable's name hold the dash of user-events
        if len(path) > 1:
            found[name] = path
        for section in Settings.model_fields:
            if len(path) == 1 and path[0].startswith(f"{section}_") and not _of_a_service(name, env[name]):
                meant = f"{PREFIX}{section.upper()}__{path[0].removeprefix(f'{section}_').upper()}"
                raise UsageError(f"{name}: unknown; did you mean {meant}, with two underscores between levels?")
    return found


def _of_a_service(name: str, value: str) -> bool:
    """Whether a variable only tells where a service of the cluster is: nobody who starts us can leave it out."""
    told = _OF_SERVICES.search(name)
    # `WEIR_REDIS_PORT=6379` is of a person, who means a setting; that of the cluster is a URL.
    return told is not None and (told[0] != "_PORT" or "://" in value)


def _merge(document: dict[str, Any], path: list[str], name: str, value: object) -> None:
    for key in path[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise UsageError(f"{name}: {key!r} is a value, not a table; remove the variable's last part")
    document[path[-1]] = value


def refusal(
    model: type[BaseModel], error: ValidationError, document: Any, where: str, origins: Mapping[Place, str]
) -> str:
    """Every mistake in ``document``.

    ``where`` is the file; ``origins`` has, by path, the variable that set a value, or nothing for an option.
    """
    # By name and by value, not by type: a secret may stand under a key that is misspelt and has no type.
    secrets = [path for path, value in _leaves(document, ()) if _is_secret(path, value)]
    found, files = [], set()
    for each in mistakes(model, error, document, secrets):
        origin = next((path for path in origins if path[: len(each.path)] == each.path), None)
        variable = origins[origin] if origin is not None else ""
        own = origin is None or (len(origin) > len(each.path) and not each.meant)
        files.add(where if own else "the environment" if variable else "the command line")
        if not own and variable and each.meant:
            found.append(f"unknown variable {variable}; {_variables(each)}")
        else:
            named = f"{variable}, which is " if not own and variable else ""
            found.append(named + sentence(each, document))
    return told(" and ".join(sorted(files)), list(dict.fromkeys(found)))


def _variables(unknown: Mistake) -> str:
    names = ["WEIR_" + "__".join(map(str, (*unknown.path[:-1], name))).upper() for name in unknown.meant]
    return f"did you mean {names[0]}?" if len(names) == 1 else f"known are {', '.join(names)}"


def _is_secret(path: Place, value: object) -> bool:
    return any(_SECRET.search(name_of(part)) for part in path) or "@" in str(value)


def _leaves(held: Any, path: Place) -> Iterator[tuple[Place, Any]]:
    """Every value at any depth, tables and lists too."""
    yield path, held
    inside = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list) else ()
    for part, value in inside:
        yield from _leaves(value, (*path, part))
