"""Unsupervised per-entity anomaly detection. State lives in rows that the caller keeps, loads and stores."""
