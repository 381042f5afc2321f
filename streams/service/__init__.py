"""``weir serve``: events and labels in over HTTP, decisions, alerts and a live feed out, with Kafka or without."""
