"""What runs beside the lanes of a worker: metrics, the web endpoints, the watchdog."""
