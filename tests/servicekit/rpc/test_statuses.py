"""Errors and statuses: both tables are complete, and what goes out comes back."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

import lepton.errors
from servicekit.errors import KINDS, Internal, InvalidArgument, LeptonError, ResourceExhausted, Unavailable
from servicekit.rpc import statuses

# Codes that we never send: success, and those that say less than one of ours.
NEVER_SENT = {"OK", "UNKNOWN", "OUT_OF_RANGE"}


def arrived(error: LeptonError) -> LeptonError:
    """What a caller gets of an error that a callee raised."""
    trailers = grpc.aio.Metadata(*statuses.trailers(error))
    code = statuses.status_code(error)
    return statuses.from_rpc_error(grpc.aio.AioRpcError(code, None, trailers, statuses.status_message(error)))


def test_table_of_kinds_holds_every_status_but_those_never_sent() -> None:
    assert set(KINDS) == {code.name for code in grpc.StatusCode} - NEVER_SENT


def test_table_of_kinds_holds_every_kind() -> None:
    assert set(KINDS.values()) == set(LeptonError.__subclasses__())


def test_sdk_has_the_same_kinds() -> None:
    assert set(lepton.errors.KINDS) == set(KINDS)
    assert {kind.__name__ for kind in lepton.errors.KINDS.values()} == {kind.__name__ for kind in KINDS.values()}


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_every_status_comes_back_as_an_error_of_ours(code: grpc.StatusCode) -> None:
    error = statuses.from_rpc_error(grpc.aio.AioRpcError(code, None, None, "from elsewhere"))
    assert isinstance(error, LeptonError)
    assert error.message == "from elsewhere"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
@given(message=st.text(max_size=100), reason=st.from_regex(r"[A-Z][A-Z_]{0,30}", fullmatch=True))
def test_errors_come_back_as_they_went_out(kind: type[LeptonError], message: str, reason: str) -> None:
    error = arrived(kind(message or "something", reason=reason, metadata={"a": "b"}))
    assert type(error) is kind
    assert (error.message, error.reason, error.metadata) == (message or "something", reason, {"a": "b"})


def test_violations_come_back() -> None:
    error = arrived(InvalidArgument("bad", violations=[("spec.family", "is required")]))
    assert isinstance(error, InvalidArgument)
    assert error.violations == [("spec.family", "is required")]


@pytest.mark.parametrize("seconds", [None, 2.5])
def test_time_of_retry_comes_back(seconds: float | None) -> None:
    error = arrived(ResourceExhausted("full", retry_seconds=seconds))
    assert isinstance(error, ResourceExhausted)
    assert error.retry_seconds == seconds


@given(
    message=st.text(max_size=5000),
    metadata=st.dictionaries(st.text(max_size=50), st.text(max_size=3000), max_size=20),
    violations=st.lists(st.tuples(st.text(max_size=200), st.text(max_size=2000)), max_size=200),
)
def test_details_stay_small(message: str, metadata: dict[str, str], violations: list[tuple[str, str]]) -> None:
    error = InvalidArgument(message, metadata=metadata, violations=violations)
    assert len(statuses.details(error)) < 4096
    assert len(statuses.status_message(error).encode()) <= 800


def test_garbled_details_leave_code_and_message() -> None:
    trailers = grpc.aio.Metadata((statuses.DETAILS_KEY, b"\xff\xff\xff"))
    error = statuses.from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, None, trailers, "no model"))
    assert (error.status, error.message, error.reason) == ("NOT_FOUND", "no model", "NOT_FOUND")


def test_details_of_other_types_are_passed_over() -> None:
    status = status_pb2.Status(code=5, details=[any_pb2.Any(type_url="type.googleapis.com/acme.Thing", value=b"x")])
    trailers = grpc.aio.Metadata((statuses.DETAILS_KEY, status.SerializeToString()))
    error = statuses.from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, None, trailers, "no model"))
    assert error.status == "NOT_FOUND"


def test_peer_that_died_during_the_call_is_unavailable() -> None:
    lost = grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, None, None, "Stream removed (data: ...)")
    assert isinstance(statuses.from_rpc_error(lost), Unavailable)


def test_unexpected_error_keeps_its_text_to_itself() -> None:
    error = statuses.known_error(KeyError("secret"))
    assert isinstance(error, Internal)
    assert "secret" not in error.message
    assert error.metadata["id"] in error.message


def test_our_own_errors_are_known_as_they_are() -> None:
    error = InvalidArgument("told")
    assert statuses.known_error(error) is error
