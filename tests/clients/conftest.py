"""What tests of foreign clients share."""

from tests.support.platform import platform

__all__ = ["platform"]
