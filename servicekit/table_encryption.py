"""Parquet Modular Encryption under a workspace's key: a module of its own, for only tables need pyarrow."""

import base64
import secrets

import pyarrow.parquet.encryption as pqe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from servicekit.errors import DataLoss
from servicekit.keys import WorkspaceKeys

_NONCE_BYTES = 12


class TableEncryption:
    """Parquet Modular Encryption under a workspace's key.

    Args:
        keys: the workspace's keys.
    """

    def __init__(self, keys: WorkspaceKeys) -> None:
        self._factory = pqe.CryptoFactory(lambda _: _Wrapping(keys.table_key))
        self._connection = pqe.KmsConnectionConfig()

    def encryption_properties(self) -> "pqe.FileEncryptionProperties":
        """Return what a Parquet writer needs to encrypt footer and columns."""
        configuration = pqe.EncryptionConfiguration(
            footer_key="workspace",
            uniform_encryption=True,
            plaintext_footer=False,
            double_wrapping=False,
            data_key_length_bits=256,
        )
        return self._factory.file_encryption_properties(self._connection, configuration)

    def decryption_properties(self) -> "pqe.FileDecryptionProperties":
        """Return what a Parquet reader needs."""
        return self._factory.file_decryption_properties(self._connection, pqe.DecryptionConfiguration())


class _Wrapping(pqe.KmsClient):  # type: ignore[misc]
    """Wraps Parquet's data keys with the workspace's table key, by AES-GCM."""

    def __init__(self, key: bytes) -> None:
        pqe.KmsClient.__init__(self)
        self._aead = AESGCM(key)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._aead.encrypt(nonce, key_bytes, master_key_identifier.encode()))

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        try:
            wrapped = base64.b64decode(wrapped_key)
            return self._aead.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], master_key_identifier.encode())
        except (InvalidTag, ValueError):
            raise DataLoss("a stored table is damaged, or of another workspace", reason="TABLE_DAMAGED") from None
