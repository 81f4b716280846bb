"""The SDK's exceptions: no user ever meets a transport error.

The table is the inverse of the services' own; a test holds both complete.
"""

from collections.abc import Mapping
from typing import ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class LeptonError(Exception):
    """What went wrong, and where known what to do about it.

    Args:
        message: for people.
        reason: stable, UPPER_SNAKE, for programs.
        metadata: details for programs.
        violations: (field, description) of each refused request field.
        retry_seconds: when a retry may work, where the platform said so.
    """

    status: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).status
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_seconds = retry_seconds

    def __str__(self) -> str:
        # KeyError, a base of some kinds, would show the message's repr.
        return self.message


class InvalidArgument(LeptonError, ValueError):
    """The request can never work as it stands."""

    status = "INVALID_ARGUMENT"


class WrongType(InvalidArgument, TypeError):
    """An argument is of a type that the function does not take."""


class MissingColumn(InvalidArgument, KeyError):
    """The data lacks a column that the function needs."""


class NotFound(LeptonError, LookupError):
    """What the request names does not exist in your workspace."""

    status = "NOT_FOUND"


class AlreadyExists(LeptonError):
    """What the request would create exists."""

    status = "ALREADY_EXISTS"


class FailedPrecondition(LeptonError):
    """The state of things forbids the request; change that first."""

    status = "FAILED_PRECONDITION"


class Aborted(LeptonError):
    """Somebody else was faster: read again, then retry."""

    status = "ABORTED"


class Unauthenticated(LeptonError):
    """The call carried no valid token."""

    status = "UNAUTHENTICATED"


class PermissionDenied(LeptonError, PermissionError):
    """Your token's role may not do this."""

    status = "PERMISSION_DENIED"


class ResourceExhausted(LeptonError):
    """A limit is reached: message size, queue, disk, memory."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(LeptonError, ConnectionError):
    """The platform, or a part of it, is away for now; retrying is safe."""

    status = "UNAVAILABLE"


class DeadlineExceeded(LeptonError, TimeoutError):
    """The time given for the call passed."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(LeptonError):
    """The call or the job was stopped."""

    status = "CANCELLED"


class Unimplemented(LeptonError, NotImplementedError):
    """This version of Lepton does not do that."""

    status = "UNIMPLEMENTED"


class DataLoss(LeptonError):
    """Stored bytes do not match their digest, or cannot be decrypted."""

    status = "DATA_LOSS"


class Internal(LeptonError):
    """A fault of the platform's own; its log has more under the id in the message."""

    status = "INTERNAL"


class JobFailed(LeptonError):
    """A job ended with an error; `reason` says which."""


class DataWarning(UserWarning):
    """What a job found in its rows looks wrong; it ran all the same."""


class UnknownCategoryWarning(DataWarning):
    """A good share of a column's values are categories that the model does not know; it predicts without them."""


class PlatformNotRunning(Unavailable):
    """No platform answers on this machine."""


KINDS: dict[str, type[LeptonError]] = {
    kind.status: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        Unauthenticated,
        PermissionDenied,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Unimplemented,
        DataLoss,
        Internal,
    )
}


def from_rpc_error(error: grpc.RpcError) -> LeptonError:
    """Return the exception that a failed call means, with its reason and details."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    kind = KINDS.get(code.name, LeptonError)
    message = (error.details() if isinstance(error, grpc.Call) else "") or str(error) or code.name
    trailers: dict[str, str | bytes] = dict(error.trailing_metadata() or ()) if isinstance(error, grpc.Call) else {}
    return _with_details(kind, message, trailers.get(_DETAILS))


def _with_details(kind: type[LeptonError], message: str, encoded: str | bytes | None) -> LeptonError:
    status = status_pb2.Status()
    if isinstance(encoded, bytes):
        status.ParseFromString(encoded)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for part in (info, bad, retry):
            detail.Unpack(part)
    seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return kind(
        message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=tuple((violation.field, violation.description) for violation in bad.field_violations),
        retry_seconds=seconds or None,
    )
