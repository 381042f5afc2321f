"""Commands with which people look after a deployment."""
