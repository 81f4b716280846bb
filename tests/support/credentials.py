"""The platform's credentials for tests: the same that `lepton init` makes, once a session."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from lepton.embedded.credentials import create_credentials, issue_token
from servicekit.settings import ProcessSettings


@pytest.fixture(scope="session")
def platform_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CA, certificates, keys and an admin token; `lepton.embedded.credentials` names its files."""
    folder = tmp_path_factory.mktemp("platform") / "credentials"
    create_credentials(folder)
    return folder


class MakeToken(Protocol):
    """Signs a token: the fixture `make_token`."""

    def __call__(self, role: str = "developer", workspace: str = "default", expires_in: float = 3600.0) -> str:
        """Return a bearer token.

        Args:
            role: viewer, developer, operator or admin.
            workspace: the workspace that it opens.
            expires_in: seconds until it expires; negative for one that has.
        """


@pytest.fixture
def make_token(platform_files: Path) -> MakeToken:
    """Signs bearer tokens with the platform's key."""

    def make(role: str = "developer", workspace: str = "default", expires_in: float = 3600.0) -> str:
        return issue_token(
            platform_files, workspace=workspace, role=role, subject=f"{role}@test", days=expires_in / 86_400
        )

    return make


@pytest.fixture
def process_settings(platform_files: Path) -> ProcessSettings:
    """Settings of a process that shows the data service's certificate, on free ports."""
    return settings_of(platform_files, "data")


def settings_of(credentials: Path, service: str, **more: float) -> ProcessSettings:
    """Return the settings of a service's process on free ports, with no NATS.

    Args:
        credentials: the platform's folder of credentials.
        service: whose certificate it shows.
        more: further fields, such as limits.
    """
    return ProcessSettings.model_validate({**environment_of(credentials, service), **more})


def environment_of(credentials: Path, service: str) -> dict[str, str]:
    """Return a process's settings that name files of the credentials, by field; its environment has LEPTON_ before."""
    return {
        "tls_ca": str(credentials / "ca.pem"),
        "tls_certificate": str(credentials / f"{service}.pem"),
        "tls_key": str(credentials / f"{service}.key"),
        "token_public_keys": str(credentials / "token-keys.json"),
        "nats_password_file": str(credentials / "nats-password"),
        "key_encryption_key_file": str(credentials / "key-encryption.key"),
    }


def public_channel(port: int, credentials: Path, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
    """Return a channel as an outside client opens it: it trusts the CA and shows no certificate."""
    authority = grpc.ssl_channel_credentials((credentials / "ca.pem").read_bytes())
    return grpc.aio.secure_channel(f"localhost:{port}", authority, options)


def bearer(token: str) -> tuple[tuple[str, str]]:
    """Return a client's metadata with a token."""
    return (("authorization", f"Bearer {token}"),)
