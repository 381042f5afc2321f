"""Pure computation on batches of events: no clock, no broker, no store, no unseeded randomness."""
