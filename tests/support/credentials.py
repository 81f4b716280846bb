"""The platform's credentials for tests: the same that `lepton init` makes, once a session."""

from pathlib import Path

import pytest

from lepton.embedded.credentials import create_credentials


@pytest.fixture(scope="session")
def platform_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CA, certificates, keys and an admin token; `lepton.embedded.credentials` names its files."""
    folder = tmp_path_factory.mktemp("platform") / "credentials"
    create_credentials(folder)
    return folder
