"""Schema versions of the inference service."""
