"""Training of the encoder: pre-training, fine-tuning, checkpoints, several processes, tuning."""

from __future__ import annotations

from models.training.builder import EncoderBuilder
from models.training.settings import EncoderSettings

__all__ = ["EncoderBuilder", "EncoderSettings"]
