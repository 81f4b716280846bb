"""Schema versions of the training service."""
