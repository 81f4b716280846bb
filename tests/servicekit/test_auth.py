"""Who calls and what they may do: tokens of every wrong sort, service certificates, roles and permissions."""

import base64
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lepton.v1 import options_pb2
from servicekit import auth
from servicekit.auth import Identity, Role, TokenVerifier, act_as, authenticate, current_identity, require
from servicekit.errors import InvalidArgument, PermissionDenied, Unauthenticated
from tests.support.credentials import MakeToken

SERVICE = [b"localhost", b"spiffe://lepton/service/training"]


@pytest.fixture
def verifier(platform_files: Path) -> TokenVerifier:
    return TokenVerifier(platform_files / "token-keys.json")


def signing_key(credentials: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key((credentials / "token-signing.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def key_id(credentials: Path) -> str:
    kid: str = json.loads((credentials / "token-keys.json").read_text())["keys"][0]["kid"]
    return kid


def claims(**changed: object) -> dict[str, object]:
    now = time.time()
    whole = {"iss": "lepton", "sub": "ada", "ws": "default", "role": "viewer", "iat": now, "exp": now + 60, "jti": "1"}
    return {key: value for key, value in (whole | changed).items() if value is not None}


def signed(credentials: Path, **changed: object) -> str:
    headers = {"kid": key_id(credentials)}
    return jwt.encode(claims(**changed), signing_key(credentials), algorithm="EdDSA", headers=headers)


def unsigned(credentials: Path, **changed: object) -> str:
    header = {"alg": "none", "typ": "JWT", "kid": key_id(credentials)}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims(**changed))]
    return b".".join([*parts, b""]).decode()


def signed_with_public_key(credentials: Path) -> str:
    """The classic confusion: the public key's bytes taken as an HMAC secret."""
    public = signing_key(credentials).public_key()
    secret = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return jwt.encode(claims(role="admin"), secret, algorithm="HS256", headers={"kid": key_id(credentials)})


def signed_by_another(credentials: Path) -> str:
    return jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": key_id(credentials)})


def reason_of(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        verifier.verify(token)
    return raised.value.reason


def test_token_tells_workspace_role_and_holder(verifier: TokenVerifier, make_token: MakeToken) -> None:
    token = make_token("operator", workspace="team-a")
    identity = verifier.verify(token)
    assert (identity.workspace, identity.role, identity.subject) == ("team-a", Role.OPERATOR, "operator@test")
    assert identity.token == token
    assert token not in repr(identity)


def test_expired_token_is_told_apart(verifier: TokenVerifier, make_token: MakeToken) -> None:
    assert reason_of(verifier, make_token(expires_in=-1)) == "TOKEN_EXPIRED"


def test_token_seen_before_expires_all_the_same(verifier: TokenVerifier, make_token: MakeToken) -> None:
    token = make_token(expires_in=60)
    now = time.time()
    verifier.verify(token, now)
    verifier.verify(token, now + 50)
    with pytest.raises(Unauthenticated) as raised:
        verifier.verify(token, now + 61)
    assert raised.value.reason == "TOKEN_EXPIRED"


def test_forged_tokens_are_invalid(verifier: TokenVerifier, platform_files: Path, make_token: MakeToken) -> None:
    head, body, signature = make_token("viewer").split(".")
    other_body = make_token("admin").split(".")[1]
    forged = [
        signed_by_another(platform_files),
        signed_with_public_key(platform_files),
        unsigned(platform_files),
        f"{head}.{other_body}.{signature}",
        f"{head}.{body}.",
        "no token at all",
        "",
        "a" * 100_000,
    ]
    assert {reason_of(verifier, token) for token in forged} == {"TOKEN_INVALID"}


def test_key_that_nobody_knows_is_invalid(verifier: TokenVerifier) -> None:
    token = jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "other"})
    assert reason_of(verifier, token) == "TOKEN_INVALID"


def test_other_issuer_is_told_apart(verifier: TokenVerifier, platform_files: Path) -> None:
    assert reason_of(verifier, signed(platform_files, iss="elsewhere")) == "TOKEN_ISSUER"


@pytest.mark.parametrize("role", ["root", "", "service"])
def test_role_that_tokens_cannot_have_is_told_apart(verifier: TokenVerifier, platform_files: Path, role: str) -> None:
    assert reason_of(verifier, signed(platform_files, role=role)) == "TOKEN_ROLE"


@pytest.mark.parametrize("missing", ["exp", "iat", "sub", "ws", "role", "jti"])
def test_token_without_a_claim_is_invalid(verifier: TokenVerifier, platform_files: Path, missing: str) -> None:
    assert reason_of(verifier, signed(platform_files, **{missing: None})) == "TOKEN_INVALID"


@pytest.mark.parametrize("workspace", ["", "*", "../other", "a b"])
def test_token_of_no_workspace_is_invalid(verifier: TokenVerifier, platform_files: Path, workspace: str) -> None:
    assert reason_of(verifier, signed(platform_files, ws=workspace)) == "TOKEN_INVALID"


def test_expiry_that_is_no_number_is_invalid(verifier: TokenVerifier, platform_files: Path) -> None:
    assert reason_of(verifier, signed(platform_files, exp="soon")) == "TOKEN_INVALID"


def test_tokens_seen_are_bounded(
    verifier: TokenVerifier, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_CACHED_TOKENS", 3)
    for _ in range(10):
        verifier.verify(make_token())
    assert len(verifier._seen) == 3


def test_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with pytest.raises(ValueError, match="holds no Ed25519 key"):
        TokenVerifier(path)


def test_call_without_token_or_certificate_is_unauthenticated(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated) as raised:
        authenticate(verifier, {"lepton-workspace": "default"}, None)
    assert raised.value.reason == "TOKEN_ABSENT"


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "Bearer  ", "token"])
def test_header_of_another_form_is_told_apart(verifier: TokenVerifier, header: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        authenticate(verifier, {"authorization": header}, None)
    assert raised.value.reason == "TOKEN_MALFORMED"


def test_certificate_of_a_service_names_any_workspace(verifier: TokenVerifier) -> None:
    identity = authenticate(verifier, {"lepton-workspace": "team-a"}, SERVICE)
    assert identity == Identity("team-a", Role.SERVICE, "training")


def test_certificate_without_the_service_name_is_nobody(verifier: TokenVerifier) -> None:
    with pytest.raises(Unauthenticated):
        authenticate(verifier, {}, [b"localhost", b"nats"])


def test_token_passed_on_by_a_service_counts_and_not_the_certificate(
    verifier: TokenVerifier, make_token: MakeToken
) -> None:
    identity = authenticate(verifier, {"authorization": f"Bearer {make_token('viewer')}"}, SERVICE)
    assert identity.role is Role.VIEWER


def test_token_cannot_name_another_workspace(verifier: TokenVerifier, make_token: MakeToken) -> None:
    metadata = {"authorization": f"Bearer {make_token('admin')}", "lepton-workspace": "other"}
    with pytest.raises(PermissionDenied) as raised:
        authenticate(verifier, metadata, None)
    assert raised.value.reason == "OTHER_WORKSPACE"


def test_workspace_that_cannot_be_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(InvalidArgument):
        authenticate(verifier, {"lepton-workspace": "../etc"}, SERVICE)


ALLOWED = {
    Role.VIEWER: {"READ", "PREDICT"},
    Role.DEVELOPER: {"READ", "PREDICT", "WRITE", "DEPLOY"},
    Role.OPERATOR: {"READ", "PREDICT", "WRITE", "DEPLOY", "OPERATE"},
    Role.ADMIN: {"READ", "PREDICT", "WRITE", "DEPLOY", "OPERATE", "ADMIN"},
    Role.SERVICE: {"READ", "PREDICT", "WRITE", "DEPLOY", "OPERATE", "ADMIN", "INTERNAL"},
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", options_pb2.Permission.keys())
def test_roles_hold_exactly_their_permissions(role: Role, name: str) -> None:
    identity = Identity("default", role, "somebody")
    permission = options_pb2.Permission.Value(name)
    if name.removeprefix("PERMISSION_") in ALLOWED[role]:
        require(identity, permission)
    else:
        with pytest.raises(PermissionDenied):
            require(identity, permission)


@pytest.mark.parametrize(
    ("workspace", "permission"),
    [("", "READ"), ("", "WRITE"), ("*", "WRITE"), ("*", "DEPLOY"), ("*", "PREDICT")],
)
def test_service_must_name_the_workspace_that_it_touches(workspace: str, permission: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        require(Identity.for_service(workspace), options_pb2.Permission.Value(f"PERMISSION_{permission}"))
    assert raised.value.reason == "WORKSPACE_UNNAMED"


@pytest.mark.parametrize(("workspace", "permission"), [("*", "READ"), ("", "INTERNAL"), ("*", "INTERNAL")])
def test_service_may_look_at_all_workspaces(workspace: str, permission: str) -> None:
    require(Identity.for_service(workspace), options_pb2.Permission.Value(f"PERMISSION_{permission}"))


def test_nobody_is_known_outside_of_calls() -> None:
    with pytest.raises(Unauthenticated):
        current_identity()


def test_background_work_acts_as_somebody_and_stops() -> None:
    with act_as(Identity.for_service("team-a")):
        assert current_identity().workspace == "team-a"
    with pytest.raises(Unauthenticated):
        current_identity()
