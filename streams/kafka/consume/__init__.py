"""Consuming record batches through Faust: fetch, unpack, hand over, commit what is complete."""
