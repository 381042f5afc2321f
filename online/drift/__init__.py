"""Drift detection on named streams: features, scores and the label rate."""
