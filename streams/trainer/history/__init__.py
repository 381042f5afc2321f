"""From what was logged to what is trained on: read histories from a log or from Parquet, and keep them in Parquet."""
