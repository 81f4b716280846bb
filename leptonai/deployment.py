"""`from leptonai.deployment import Deploy`."""

from lepton.deployment import Deploy

__all__ = ["Deploy"]
