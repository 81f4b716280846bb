"""Errors to gRPC statuses and back, with google.rpc details: pure functions."""

import uuid

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from servicekit.errors import KINDS, Internal, InvalidArgument, LeptonError, ResourceExhausted, Unavailable

DOMAIN = "lepton.dev"
DETAILS_KEY = "grpc-status-details-bin"


def status_code(error: LeptonError) -> grpc.StatusCode:
    """Return the gRPC code of an error's kind."""
    return grpc.StatusCode[error.status]


def details(error: LeptonError) -> bytes:
    """Return a serialised google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where the error has them."""
    status = status_pb2.Status(code=status_code(error).value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.append(_packed(info))
    if isinstance(error, InvalidArgument) and error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in error.violations:
            bad.field_violations.add(field=field, description=description)
        status.details.append(_packed(bad))
    if isinstance(error, ResourceExhausted) and error.retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_seconds * 1000))
        status.details.append(_packed(retry))
    return status.SerializeToString()


def hide(error: Exception) -> tuple[Internal, str]:
    """Return what to send for an unexpected error, and the id under which the whole of it is logged."""
    error_id = uuid.uuid4().hex[:12]
    return Internal(f"internal error (id {error_id})", metadata={"id": error_id}), error_id


def from_rpc_error(error: grpc.aio.AioRpcError) -> LeptonError:
    """Return the error that a callee raised, or Unavailable and the like from the transport."""
    kind = KINDS.get(error.code().name, Internal)
    message = error.details() or error.code().name
    encoded = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(encoded).details if isinstance(encoded, bytes) else ():
        for part in (info, bad, retry):
            detail.Unpack(part)
    metadata = dict(info.metadata)
    if kind is InvalidArgument:
        violations = [(violation.field, violation.description) for violation in bad.field_violations]
        return InvalidArgument(message, reason=info.reason, metadata=metadata, violations=violations)
    if kind is ResourceExhausted:
        seconds = retry.retry_delay.ToTimedelta().total_seconds() or None
        return ResourceExhausted(message, reason=info.reason, metadata=metadata, retry_seconds=seconds)
    if error.code() is grpc.StatusCode.UNKNOWN:
        return Unavailable(message, reason="UNKNOWN")
    return kind(message, reason=info.reason, metadata=metadata)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
