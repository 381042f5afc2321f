"""Training of the encoder: pre-training, fine-tuning, checkpoints, several processes, tuning."""
