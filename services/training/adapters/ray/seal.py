"""What goes through Ray's object store, encrypted: Ray spills objects to disks in the clear."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Seal:
    """Encrypts and authenticates by AES-GCM, under a key that lives as long as one job's run and on no disk.

    Args:
        key: 32 bytes. Small replies of Ray's actors go from memory to memory, so that is how workers get it.
    """

    key: bytes = field(default_factory=lambda: AESGCM.generate_key(256), repr=False)

    def close(self, content: bytes | memoryview) -> bytes:
        """Return some bytes, encrypted."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, content, None)

    def open(self, sealed: bytes) -> bytes:
        """Return the bytes that were encrypted."""
        return AESGCM(self.key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)

    def put(self, content: bytes) -> list[Any]:
        """Put bytes into the object store; return what `get` takes, in their order."""
        view = memoryview(content)
        return [ray.put(self.close(view[start : start + _CHUNK_BYTES])) for start in range(0, len(view), _CHUNK_BYTES)]

    def get(self, chunks: Sequence[Any]) -> bytes:
        """Return bytes from the object store."""
        return b"".join(self.open(ray.get(chunk)) for chunk in chunks)
