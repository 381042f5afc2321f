"""Redis: the client, what is stored there, and its layout."""
