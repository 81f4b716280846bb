"""Ids as the platform accepts them: [a-z0-9][a-z0-9_-]{0,62}."""

import hashlib
import re
from uuid import uuid4

_NOT_ALLOWED = re.compile(r"[^a-z0-9_-]+")
_LONGEST = 63
_HASH_DIGITS = 6
# From here on a character is a syllable or a word: Chinese, Japanese, Korean.
_FIRST_EAST_ASIAN = 0x2E80


def to_id(text: str, default: str = "data") -> str:
    """Return a readable id for a free text: `German Credit.csv` gives `german-credit-csv`.

    Characters beyond ASCII are transliterated, and a text that is longer than an id is cut. Two such texts may read the
    same, so their ids end in a hash of the text: `客户` gives `ke-hu-` and six digits.
    """
    readable = _NOT_ALLOWED.sub("-", _transliterated(text).lower()).strip("-_")
    if text.isascii() and (readable or not text) and len(readable) <= _LONGEST:
        return readable or default
    # surrogatepass: a file's name may hold bytes that are no text.
    digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{(readable or default)[: _LONGEST - _HASH_DIGITS - 1].strip('-_')}-{digits}"


def request_id() -> str:
    """Return a fresh id for one mutation, so that a retry gets the first answer."""
    return uuid4().hex


def _transliterated(text: str) -> str:
    if text.isascii():
        return text
    # Its tables are loaded only for the few names that need them.
    from anyascii import anyascii

    return "".join(f" {anyascii(one)} " if ord(one) >= _FIRST_EAST_ASIAN else anyascii(one) for one in text)
