"""What end-to-end tests share."""

from tests.support.platform import own_platform, platform

__all__ = ["own_platform", "platform"]
