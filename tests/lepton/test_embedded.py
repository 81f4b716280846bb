"""Credentials are made whole and private; the processes of a platform share no port."""

import datetime
import ssl
from collections import Counter
from pathlib import Path

import jwt
import pytest
from cryptography import x509

from lepton.embedded import credentials
from lepton.embedded.home import Home
from lepton.embedded.processes import Plan, platform_processes
from servicekit.auth import Role, TokenVerifier


def test_credentials_are_whole_and_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    credentials.create_credentials(folder, ["models.example.org", "10.1.2.3"])
    secret = [path for path in folder.iterdir() if path.suffix == ".key" or path.name in ("token", "token-signing.pem")]
    assert len(secret) >= 10
    assert all(path.stat().st_mode & 0o077 == 0 for path in secret)
    ssl.create_default_context(cafile=str(folder / "ca.pem")).load_cert_chain(folder / "data.pem", folder / "data.key")
    names = x509.load_pem_x509_certificate((folder / "data.pem").read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {"data", "localhost", "models.example.org"} <= set(names.value.get_values_for_type(x509.DNSName))
    assert "spiffe://lepton/service/data" in names.value.get_values_for_type(x509.UniformResourceIdentifier)
    with pytest.raises(FileExistsError):
        credentials.create_credentials(folder)


def test_making_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The disk is full when the last file is written.
    monkeypatch.setattr(credentials, "_write_token_keys", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        credentials.create_credentials(tmp_path / "credentials")
    assert list(tmp_path.iterdir()) == []


def test_certificates_are_renewed_before_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    monkeypatch.setattr(credentials, "_LEAF_DAYS", 30)
    credentials.create_credentials(folder)
    before = (folder / "data.pem").read_bytes()
    monkeypatch.setattr(credentials, "_LEAF_DAYS", 800)
    assert len(credentials.renew_certificates(folder)) == 6
    assert (folder / "data.pem").read_bytes() != before
    assert credentials.renew_certificates(folder) == []


def test_token_says_who_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    credentials.create_credentials(folder)
    token = credentials.issue_token(folder, workspace="cards", role="operator", subject="ann", days=1)
    identity = TokenVerifier(folder / "token-keys.json").verify(token)
    assert (identity.workspace, identity.role, identity.subject) == ("cards", Role.OPERATOR, "ann")
    expires = jwt.decode(token, options={"verify_signature": False})["exp"]
    assert abs(expires - datetime.datetime.now(datetime.UTC).timestamp() - 86400) < 60
    with pytest.raises(ValueError, match="viewer, developer, operator, admin"):
        credentials.issue_token(folder, workspace="cards", role="service", subject="eve", days=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_two_processes_listen_on_one_port_but_inference_workers(tmp_path: Path, workers: int) -> None:
    plan = Plan(9000, inference_workers=workers, training_workers=workers)
    processes = platform_processes(Home(tmp_path), plan, Path("nats-server"))
    assert len({process.name for process in processes}) == len(processes) == 6 + 2 * workers
    ports = Counter(
        int(process.environment[name])
        for process in processes
        for name in ("LEPTON_PORT", "LEPTON_PRIVATE_PORT", "LEPTON_METRICS_PORT")
        if name in process.environment
    )
    assert ports.pop(9001) == workers
    assert ports[9002] == 1
    assert set(ports.values()) == {1}
    assert 9022 not in ports
