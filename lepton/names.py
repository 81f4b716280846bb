"""Ids as the platform wants them: [a-z0-9][a-z0-9_-]{0,62}."""

import re
from uuid import uuid4

_NOT_ALLOWED = re.compile(r"[^a-z0-9_-]+")


def to_id(text: str, default: str = "data") -> str:
    """Return the nearest id to a free text: `German Credit.csv` gives `german-credit-csv`."""
    return _NOT_ALLOWED.sub("-", text.lower()).strip("-_")[:63].strip("-_") or default


def request_id() -> str:
    """Return a fresh id for one mutation, so that a retry gets the first answer."""
    return uuid4().hex
