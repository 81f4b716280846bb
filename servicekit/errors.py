"""The errors that services raise, and the one table that gives each its gRPC status.

The domain raises these and nothing else on purpose; `servicekit.rpc` turns them into a status with
google.rpc.ErrorInfo, and the SDK (`lepton.errors`) turns that back. A test holds both tables complete.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class LeptonError(Exception):
    """An error with a stable reason.

    Args:
        message: for people: what is wrong, what was expected, what to do.
        reason: stable, UPPER_SNAKE, for programs; by default the kind's own.
        metadata: details for programs; never secrets, never rows.

    `holds_values` marks a message with values of the request: it goes to the caller and is left out of logs.
    """

    status: ClassVar[str] = "INTERNAL"
    default_reason: ClassVar[str] = "INTERNAL"
    holds_values: bool = False

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})


class FieldViolation(tuple[str, str]):
    """A request field's path and what is wrong with it."""

    __slots__ = ()

    def __new__(cls, field: str, description: str) -> "FieldViolation":
        """Pair a field's path, such as `spec.family`, with a description."""
        return super().__new__(cls, (field, description))


class InvalidArgument(LeptonError):
    """The request can never work as it stands."""

    status = "INVALID_ARGUMENT"
    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.violations = [FieldViolation(*violation) for violation in violations]


class NotFound(LeptonError):
    """What the request names does not exist in the caller's workspace."""

    status = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(LeptonError):
    """What the request would create exists."""

    status = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(LeptonError):
    """The state of things forbids the request; change that first."""

    status = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class Aborted(LeptonError):
    """Somebody else was faster: an etag or an epoch is stale. Read again, then retry."""

    status = "ABORTED"
    default_reason = "ABORTED"


class Unauthenticated(LeptonError):
    """The call carries no valid token or certificate."""

    status = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(LeptonError):
    """The caller is known and may not do this."""

    status = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class ResourceExhausted(LeptonError):
    """A limit is reached: message size, queue, disk, memory.

    Args:
        retry_seconds: when a retry may work; None where none will.
    """

    status = "RESOURCE_EXHAUSTED"
    default_reason = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_seconds = retry_seconds


class Unavailable(LeptonError):
    """What the request needs is away for now; retrying is safe.

    Args:
        retry_seconds: when a retry may work; None where that is unknown.
    """

    status = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_seconds = retry_seconds


class DeadlineExceeded(LeptonError):
    """The caller's deadline passed."""

    status = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(LeptonError):
    """The caller, or a user, stopped it."""

    status = "CANCELLED"
    default_reason = "CANCELLED"


class Unimplemented(LeptonError):
    """This version of Lepton does not do that."""

    status = "UNIMPLEMENTED"
    default_reason = "UNIMPLEMENTED"


class DataLoss(LeptonError):
    """Stored bytes do not match their digest, or cannot be decrypted."""

    status = "DATA_LOSS"
    default_reason = "DATA_LOSS"


class Internal(LeptonError):
    """A fault of Lepton's own; logged whole, sent as an id."""

    status = "INTERNAL"
    default_reason = "INTERNAL"


# Every kind, by its gRPC status name: the table that interceptors and the SDK's test read.
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
