"""Schema versions of the data service."""
