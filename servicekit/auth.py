"""Who calls, and what they may do: pure functions that interceptors, and later paths without interceptors, call.

Tokens are EdDSA JWTs, verified with public keys alone. Lepton's own processes are known by their certificate instead.
"""

import contextlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.types import Options

from lepton.v1 import options_pb2
from servicekit.errors import InvalidArgument, PermissionDenied, Unauthenticated

ISSUER = "lepton"
# A service that names this workspace sees all of them.
ALL_WORKSPACES = "*"
_SERVICE_URI = b"spiffe://lepton/service/"
_CACHED_TOKENS = 4096
# Longer ones are refused unread: verifying costs time in proportion, and nobody gets to choose how much.
_LONGEST_TOKEN = 4096
_CLAIMS = ("exp", "iat", "sub", "ws", "role", "jti", "iss")
_WORKSPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Role(IntEnum):
    """What a caller is, from least to most."""

    VIEWER = 1
    DEVELOPER = 2
    OPERATOR = 3
    ADMIN = 4
    SERVICE = 5


@dataclass(frozen=True)
class Identity:
    """Who makes a call.

    Args:
        workspace: the workspace that it acts in; `*` for a service that looks at all.
        role: what it is.
        subject: who holds the token, or the service's name.
        token_id: the token's id; empty for a service.
        token: the raw bearer token, to pass on; empty for a service.
    """

    workspace: str
    role: Role
    subject: str
    token_id: str = ""
    token: str = field(default="", repr=False)

    @classmethod
    def for_service(cls, workspace: str, name: str = "service") -> "Identity":
        """Return the identity of Lepton's own background work in a workspace."""
        return cls(workspace, Role.SERVICE, name)


_current: ContextVar[Identity | None] = ContextVar("lepton_identity", default=None)


def current_identity() -> Identity:
    """Return who makes the call under way.

    Raises:
        Unauthenticated: no call is under way.
    """
    identity = _current.get()
    if identity is None:
        raise Unauthenticated("no caller is known here", reason="NO_IDENTITY")
    return identity


def find_identity() -> Identity | None:
    """Return who makes the call under way, or None outside of calls."""
    return _current.get()


def set_identity(identity: Identity) -> None:
    """Set who makes the call under way; the call's own context ends with it."""
    _current.set(identity)


@contextlib.contextmanager
def act_as(identity: Identity) -> Iterator[None]:
    """Run a block as somebody: background work as `Identity.for_service(workspace)`."""
    token = _current.set(identity)
    try:
        yield
    finally:
        _current.reset(token)


# The least role that holds a permission. INTERNAL has no role: certificates alone.
_LEAST_ROLE: Mapping[int, Role] = {
    options_pb2.PERMISSION_READ: Role.VIEWER,
    options_pb2.PERMISSION_PREDICT: Role.VIEWER,
    options_pb2.PERMISSION_WRITE: Role.DEVELOPER,
    options_pb2.PERMISSION_DEPLOY: Role.DEVELOPER,
    options_pb2.PERMISSION_OPERATE: Role.OPERATOR,
    options_pb2.PERMISSION_ADMIN: Role.ADMIN,
    options_pb2.PERMISSION_INTERNAL: Role.SERVICE,
}

# What touches one workspace's resources; a service that calls these for its own sake must say which it means.
_ONE_WORKSPACE = frozenset(
    {options_pb2.PERMISSION_WRITE, options_pb2.PERMISSION_DEPLOY, options_pb2.PERMISSION_PREDICT}
)


def require(identity: Identity, permission: "options_pb2.Permission.ValueType") -> None:
    """Check that the caller holds a permission.

    Raises:
        PermissionDenied: it does not, or the RPC declares none.
        InvalidArgument: a service names no workspace, or all of them where one is needed.
    """
    least = _LEAST_ROLE.get(permission)
    if least is None:
        raise PermissionDenied(
            "this call declares no permission, so nobody may make it", reason="NO_PERMISSION_DECLARED"
        )
    if identity.role < least:
        raise PermissionDenied(
            f"this call needs the role {least.name.lower()}, and the token's is {identity.role.name.lower()}",
            reason="ROLE_TOO_LOW",
            metadata={"needed": least.name.lower(), "role": identity.role.name.lower()},
        )
    if identity.role is Role.SERVICE:
        _require_workspace(identity.workspace, permission)


def _require_workspace(workspace: str, permission: "options_pb2.Permission.ValueType") -> None:
    if permission in _ONE_WORKSPACE and workspace in ("", ALL_WORKSPACES):
        raise InvalidArgument("a service must name one workspace for this call", reason="WORKSPACE_UNNAMED")
    if permission == options_pb2.PERMISSION_READ and not workspace:
        raise InvalidArgument("a service must name a workspace, or * for all", reason="WORKSPACE_UNNAMED")


class TokenVerifier:
    """Verifies bearer tokens, keeping the answers of those seen.

    Args:
        public_keys: path of a JWKS file with Ed25519 keys.
    """

    def __init__(self, public_keys: Path) -> None:
        self._keys = _read_keys(public_keys)
        self._seen: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    def verify(self, token: str, now: float | None = None) -> Identity:
        """Return whom a token stands for.

        Args:
            token: the bearer token.
            now: seconds since the epoch; by default the clock's.

        Raises:
            Unauthenticated: TOKEN_EXPIRED; TOKEN_ISSUER: another issuer's; TOKEN_ROLE: a role that tokens cannot have;
                TOKEN_INVALID: forged, signed by another key or in another way, or no token at all.
        """
        now = time.time() if now is None else now
        seen = self._seen.get(token)
        if seen is None:
            seen = self._decode(token)
        expires, identity = seen
        if now >= expires:
            self._seen.pop(token, None)
            raise Unauthenticated("the token is expired: get a new one from the admin", reason="TOKEN_EXPIRED")
        self._remember(token, seen)
        return identity

    def _remember(self, token: str, answer: tuple[float, Identity]) -> None:
        self._seen[token] = answer
        if len(self._seen) > _CACHED_TOKENS:
            self._seen.popitem(last=False)

    def _decode(self, token: str) -> tuple[float, Identity]:
        try:
            if len(token) > _LONGEST_TOKEN:
                raise KeyError("too long")
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
        except (jwt.InvalidTokenError, KeyError, TypeError):
            raise Unauthenticated(
                "the token was not signed by this platform: get one from its admin", reason="TOKEN_INVALID"
            ) from None
        # Expiry is checked at each use, by verify().
        options: Options = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False}
        try:
            # One algorithm, named here: a token never chooses how it is checked.
            claims = jwt.decode(token, key, algorithms=["EdDSA"], issuer=ISSUER, options=options)
            return float(claims["exp"]), _identity(claims, token)
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token was issued by another platform", reason="TOKEN_ISSUER") from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise Unauthenticated("the token is not valid on this platform", reason="TOKEN_INVALID") from None


def _identity(claims: Mapping[str, object], token: str) -> Identity:
    role = Role.__members__.get(str(claims["role"]).upper())
    # Tokens are for people and their programs: Lepton's own processes show certificates.
    if role is None or role is Role.SERVICE:
        raise Unauthenticated(f"the token names an unknown role {claims['role']!r}", reason="TOKEN_ROLE")
    workspace = str(claims["ws"])
    if not _WORKSPACE.fullmatch(workspace):
        raise Unauthenticated("the token names no workspace", reason="TOKEN_INVALID")
    return Identity(workspace, role, str(claims["sub"]), str(claims["jti"]), token)


def _read_keys(path: Path) -> dict[str, Ed25519PublicKey]:
    keys: dict[str, Ed25519PublicKey] = {}
    for entry in json.loads(path.read_text())["keys"]:
        key = jwt.PyJWK(entry, algorithm="EdDSA").key
        if isinstance(key, Ed25519PublicKey):
            keys[entry["kid"]] = key
    if not keys:
        raise ValueError(f"{path} holds no Ed25519 key: nobody could show a token")
    return keys


def service_name(peer_identities: Iterable[bytes] | None) -> str | None:
    """Return the service whose certificate the peer showed, or None.

    Args:
        peer_identities: the certificate's subject alternative names; the TLS stack has checked its chain.
    """
    for identity in peer_identities or ():
        if identity.startswith(_SERVICE_URI):
            return identity.removeprefix(_SERVICE_URI).decode()
    return None


def authenticate(
    verifier: TokenVerifier, metadata: Mapping[str, str], peer_identities: Iterable[bytes] | None
) -> Identity:
    """Return who calls: the token's holder if there is a token, else the service whose certificate was shown.

    Args:
        verifier: checks tokens.
        metadata: the call's metadata: authorization, and lepton-workspace from services.
        peer_identities: the peer certificate's subject alternative names; None without one.

    Raises:
        Unauthenticated: neither a valid token nor a service's certificate.
        PermissionDenied: the call names a workspace that the token does not open.
        InvalidArgument: a service names a workspace that cannot be.
    """
    authorization = metadata.get("authorization", "")
    named = metadata.get("lepton-workspace", "")
    if authorization:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("the authorization header must read 'Bearer TOKEN'", reason="TOKEN_MALFORMED")
        identity = verifier.verify(token.strip())
        if named not in ("", identity.workspace):
            raise PermissionDenied(
                f"the token opens the workspace {identity.workspace!r}, no other", reason="OTHER_WORKSPACE"
            )
        return identity
    name = service_name(peer_identities)
    if name is None:
        raise Unauthenticated(
            "this call needs a token: send the header 'authorization: Bearer TOKEN'", reason="TOKEN_ABSENT"
        )
    if named not in ("", ALL_WORKSPACES) and not _WORKSPACE.fullmatch(named):
        raise InvalidArgument("lepton-workspace must be a workspace's id, or *", reason="WORKSPACE_UNNAMED")
    return Identity(named, Role.SERVICE, name)
