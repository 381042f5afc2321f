"""Events and labels in, decisions out."""
