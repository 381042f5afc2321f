"""Where full models are kept, and what runs them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from weir.streams.config.frozen_settings import Concern

_SCHEMES = ("file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


class ModelSettings(Concern):
    """``[models]``: the registry, and how graphs are run.

    >>> ModelSettings(registry="s3://bucket/models").provider
    'auto'
    """

    registry: str = Field(default="weir-models", min_length=1)
    """A directory that all workers and the trainer share, or the URL of an object store such as ``s3://bucket/models``.
    Credentials come from the store's own environment variables and files, never from here."""
    trusted: tuple[str, ...] = ()
    """Further registries, as directories or URLs, whose versions may serve where a record of ``model-updates`` names
    them, such as the address of a registry before it was moved. What is below one of them is trusted, too. All other
    addresses are refused."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where it is there; asking for ``cuda`` where it is not is an error."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one model."""
    precision: Literal["float32", "float16", "int8"] = "float32"
    """Which graph of a version serves; a version without it (trees have no other) serves in float32, and the log says
    so. ``int8`` makes an encoder a little faster on a CPU, but a row's logit then depends a little on the other rows of
    its batch, so that a replay need not give the same bits. ``float16`` is made for GPUs. Measured: docs/LOG.md."""

    @field_validator("trusted")
    @classmethod
    def _known_schemes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(address.strip("/.") for address in value):
            raise ValueError("an empty address would trust every place; give directories or URLs of registries")
        return tuple(cls._known_scheme(address) for address in value)

    @field_validator("registry")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme, found, rest = value.partition("://")
        if found and (scheme not in _SCHEMES or not rest):
            raise ValueError(f"give a directory or a URL that starts with one of {', '.join(_SCHEMES)} and ://")
        if found and "@" in rest.partition("/")[0] and scheme not in ("abfs", "abfss"):
            raise ValueError("leave credentials out of the URL; the store's own environment variables hold them")
        return value
