"""Features by declaration: windows, exponentially weighted means, label-fed risk, anomaly scores."""
