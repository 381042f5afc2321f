"""Immutable versions of each task's full model, and which of them serves; over a directory or an object store."""

from models.manifest import ArtefactError, DataRange, FileEntry, Manifest, Variant
from models.registry.artefact import Artefact
from models.registry.errors import RegistryError, StageConflictError
from models.registry.registry import Registry, relative_uri, split_uri
from models.registry.stages import Action, Stage, StageEntry, Stages

__all__ = [
    "Action",
    "Artefact",
    "ArtefactError",
    "DataRange",
    "FileEntry",
    "Manifest",
    "Registry",
    "RegistryError",
    "Stage",
    "StageConflictError",
    "StageEntry",
    "Stages",
    "Variant",
    "relative_uri",
    "split_uri",
]
