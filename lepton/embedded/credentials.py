"""The platform's certificate authority, certificates, keys and tokens: what `lepton init` and `lepton token` make.

Only the machine that holds this folder can sign tokens; services get public keys alone.
"""

import base64
import datetime
import ipaddress
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVICES = ("data", "training", "registry", "inference", "scheduler")
ISSUER = "lepton"
ROLES = ("viewer", "developer", "operator", "admin")

_CA_DAYS = 3650
# Under the 825 days that some TLS stacks accept at most; `renew_certificates` writes new ones in time.
_LEAF_DAYS = 800
_RENEW_DAYS = 60


def create_credentials(directory: Path, hosts: Sequence[str] = (), admin_token_days: float = 365.0) -> None:
    """Write a new CA, service certificates, keys and an admin token, all or nothing.

    Files: ca.pem, ca.key; <service>.pem and <service>.key for each service, and nats.pem, nats.key; token-signing.pem;
    token-keys.json (JWKS, public); key-encryption.key; nats-password; jetstream.key; token. Secrets have mode 0600.

    Args:
        directory: must not exist.
        hosts: names and addresses, beside this machine's own, by which clients reach the services.
        admin_token_days: how long the admin token of workspace `default` lasts, days.

    Raises:
        FileExistsError: the directory exists.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists already")
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A rename commits: a crash in the middle leaves no half-made set that later starts would trust.
    building = Path(tempfile.mkdtemp(prefix=".credentials-", dir=directory.parent))
    try:
        _write_authority(building)
        (building / "hosts.json").write_text(json.dumps(sorted(set(hosts))))
        for name in (*SERVICES, "nats"):
            _issue_certificate(building, name)
        _write_token_keys(building)
        _write_secret(building / "key-encryption.key", base64.b64encode(secrets.token_bytes(32)))
        _write_secret(building / "nats-password", secrets.token_urlsafe(32).encode())
        _write_secret(building / "jetstream.key", secrets.token_urlsafe(32).encode())
        token = issue_token(building, workspace="default", role="admin", subject="admin", days=admin_token_days)
        _write_secret(building / "token", token.encode())
        building.rename(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def renew_certificates(directory: Path) -> list[str]:
    """Issue again the certificates that end within 60 days; return their names."""
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    renewed = []
    for name in (*SERVICES, "nats"):
        certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
        if certificate.not_valid_after_utc < soon:
            _issue_certificate(directory, name)
            renewed.append(name)
    return renewed


def issue_token(directory: Path, *, workspace: str, role: str, subject: str, days: float) -> str:
    """Sign a bearer token (EdDSA JWT).

    Args:
        directory: the credentials folder with token-signing.pem.
        workspace: the workspace that the token opens.
        role: viewer, developer, operator or admin.
        subject: who will hold it; shown in histories.
        days: how long it lasts, days.

    Raises:
        ValueError: the role is unknown.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}: expected one of {', '.join(ROLES)}")
    key = serialization.load_pem_private_key((directory / "token-signing.pem").read_bytes(), password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"{directory / 'token-signing.pem'} holds no Ed25519 key")
    now = datetime.datetime.now(datetime.UTC)
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "ws": workspace,
        "role": role,
        "iat": now,
        "exp": now + datetime.timedelta(days=days),
        "jti": uuid4().hex,
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _key_id(key.public_key())})


def _write_secret(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_authority(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Lepton CA {uuid4().hex[:8]}")])
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_secret(directory / "ca.key", _pem(key))


def _issue_certificate(directory: Path, name: str) -> None:
    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    authority_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = _alternative_names(name, json.loads((directory / "hosts.json").read_text()))
    if name in SERVICES:
        # What makes a peer a service: checked by servicekit.auth.
        names.append(x509.UniformResourceIdentifier(f"spiffe://lepton/service/{name}"))
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            authority.subject,
            key.public_key(),
            authority_key.public_key(),
            _LEAF_DAYS,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    for path, content in (
        (directory / f"{name}.key", _pem(key)),
        (directory / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
    ):
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        _write_secret(temporary, content)
        temporary.rename(path)


def _alternative_names(name: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    addresses = ["127.0.0.1", "::1"]
    dns = {"localhost", socket.gethostname(), name, *((f"{name}-worker",) if name in SERVICES else ())}
    for host in hosts:
        try:
            addresses.append(str(ipaddress.ip_address(host)))
        except ValueError:
            dns.add(host)
    return [
        *(x509.DNSName(host) for host in sorted(dns)),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)),
    ]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Clocks of machines in one stack differ by minutes.
        .not_valid_before(now - datetime.timedelta(minutes=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_token_keys(directory: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    _write_secret(directory / "token-signing.pem", _pem(key))
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": _key_id(key.public_key()),
        "x": _base64url(_raw(key.public_key())),
    }
    (directory / "token-keys.json").write_text(json.dumps({"keys": [jwk]}, indent=2))


def _raw(key: ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _key_id(key: ed25519.Ed25519PublicKey) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(_raw(key))
    return _base64url(digest.finalize())[:16]
