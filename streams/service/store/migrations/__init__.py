"""Changes of the tables, in order; each is what it was when it was made."""
