"""Schema versions of the registry."""
