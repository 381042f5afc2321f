"""One process without Kafka or Redis: a log, a memory store, and a host that runs the stages."""
