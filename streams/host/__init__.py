"""Hosts run stages over a log: the embedded one here, Faust's beside it."""
