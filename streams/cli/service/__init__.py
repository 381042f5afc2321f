"""Commands that talk to a running ``weir serve``."""
