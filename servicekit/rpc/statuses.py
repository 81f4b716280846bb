"""Errors to gRPC statuses and back, with google.rpc details: pure functions."""

import uuid
from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from servicekit.errors import KINDS, Internal, InvalidArgument, LeptonError, ResourceExhausted, Unavailable

DOMAIN = "lepton.dev"
DETAILS_KEY = "grpc-status-details-bin"

# Peers drop calls whose trailers pass 8 KiB in all, and a message travels twice, once percent-encoded.
_MESSAGE_BYTES = 800
_METADATA_BYTES = 600
_VIOLATION_BYTES = 1200
_VIOLATION_DESCRIPTION_BYTES = 200

# Codes that no kind of ours bears, as other servers and the transport send them.
_FOREIGN_KINDS: dict[str, type[LeptonError]] = {"UNKNOWN": Internal, "OUT_OF_RANGE": InvalidArgument}
# What the transport says, under UNKNOWN, of a peer that died during the call.
_LOST_PEER = ("Stream removed", "Socket closed", "Connection reset")


def status_code(error: LeptonError) -> grpc.StatusCode:
    """Return the gRPC code of an error's kind."""
    return grpc.StatusCode[error.status]


def status_message(error: LeptonError) -> str:
    """Return an error's message, as much of it as a status can carry."""
    return _shortened(error.message, _MESSAGE_BYTES)


def trailers(error: LeptonError) -> tuple[tuple[str, bytes]]:
    """Return the trailing metadata that carries an error's details."""
    return ((DETAILS_KEY, details(error)),)


def details(error: LeptonError) -> bytes:
    """Return a serialised google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where the error has them.

    It stays under 4 KiB: long messages, metadata and lists of violations are cut.
    """
    status = status_pb2.Status(code=status_code(error).value[0], message=status_message(error))
    metadata = dict(_fitting(error.metadata.items(), _METADATA_BYTES, _METADATA_BYTES))
    status.details.append(_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)))
    if isinstance(error, InvalidArgument) and error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in _fitting(error.violations, _VIOLATION_BYTES, _VIOLATION_DESCRIPTION_BYTES):
            bad.field_violations.add(field=field, description=description)
        status.details.append(_packed(bad))
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        status.details.append(_packed(retry))
    encoded: bytes = status.SerializeToString()
    return encoded


def known_error(error: Exception) -> LeptonError:
    """Return the error to send for any: itself if it is of ours, else one that says no more than it should.

    The text of an unexpected error may hold rows or paths: it is for the log, under the id that is sent.
    """
    if isinstance(error, LeptonError):
        return error
    error_id = uuid.uuid4().hex[:12]
    metadata = {"id": error_id}
    if isinstance(error, TimeoutError | ConnectionError):
        message = f"something that this call needs does not answer: try again (id {error_id})"
        return Unavailable(message, reason="DEPENDENCY_AWAY", metadata=metadata)
    return Internal(f"internal error (id {error_id})", metadata=metadata)


def from_rpc_error(error: grpc.aio.AioRpcError) -> LeptonError:
    """Return the error that a callee raised, or the one that the transport's failure amounts to."""
    name = error.code().name
    message = error.details() or name
    if name == "UNKNOWN" and message.startswith(_LOST_PEER):
        return Unavailable("the peer went away during the call", reason="PEER_LOST")
    kind = KINDS.get(name) or _FOREIGN_KINDS.get(name, Internal)
    info, bad, retry = _unpacked(dict(error.trailing_metadata() or ()).get(DETAILS_KEY))
    metadata = dict(info.metadata)
    if kind is InvalidArgument:
        violations = [(violation.field, violation.description) for violation in bad.field_violations]
        return InvalidArgument(message, reason=info.reason, metadata=metadata, violations=violations)
    seconds = retry.retry_delay.ToTimedelta().total_seconds() or None
    if kind is ResourceExhausted:
        return ResourceExhausted(message, reason=info.reason, metadata=metadata, retry_seconds=seconds)
    if kind is Unavailable:
        return Unavailable(message, reason=info.reason, metadata=metadata, retry_seconds=seconds)
    return kind(message, reason=info.reason, metadata=metadata)


def _unpacked(
    encoded: str | bytes | None,
) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo]:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    status = status_pb2.Status()
    if isinstance(encoded, bytes):
        try:
            status.ParseFromString(encoded)
        except DecodeError:
            # A proxy in between may cut trailers; the code and the message still tell.
            status.Clear()
    for detail in status.details:
        for part in (info, bad, retry):
            detail.Unpack(part)
    return info, bad, retry


def _fitting(pairs: Iterable[tuple[str, str]], budget: int, each: int) -> Iterable[tuple[str, str]]:
    for key, value in pairs:
        short = _shortened(value, each)
        budget -= len(key.encode()) + len(short.encode())
        if budget < 0:
            return
        yield key, short


def _shortened(text: str, most_bytes: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most_bytes:
        return encoded.decode()
    return encoded[: most_bytes - 3].decode("utf-8", "ignore") + "..."


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
