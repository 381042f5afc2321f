"""What ``weir doctor`` and ``--check`` look at: brokers, store, state, models, data."""
