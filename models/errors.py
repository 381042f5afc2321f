"""Errors of full models, by the action each one causes.

ModelError
├── ArtefactError        (weir.models.manifest) do not serve it; register the model again
├── RegistryError        reach the storage, or correct its address or rights
└── StageConflictError   somebody else was first: read the stages again, and decide anew
"""

from __future__ import annotations

from weir.online.errors import WeirError


class ModelError(WeirError):
    """A model, artefact or data set that cannot be used; the text names the value, the limit and the fix."""


class RegistryError(ModelError):
    """The storage cannot be used; the message names the path and what to check."""


class StageConflictError(ModelError):
    """The stages changed since they were read; the other change stands and this one was not made."""
