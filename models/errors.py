"""The error of the full model."""

from __future__ import annotations

from weir.online.errors import WeirError


class ModelError(WeirError):
    """A model, artefact or data set that cannot be used; the text names the value, the limit and the fix."""
