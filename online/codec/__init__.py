"""Records: the wire contract, its limits, and how bytes become columns and columns bytes."""
