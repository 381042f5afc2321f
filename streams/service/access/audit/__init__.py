"""Who did what: records in a chain of digests."""
