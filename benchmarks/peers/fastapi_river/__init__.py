"""The service that a careful engineer would write in a day, as a peer of ``weir serve``."""
