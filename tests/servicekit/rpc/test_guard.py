"""The guard over a real server with TLS: who gets in, what is refused, and what errors say."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from lepton.v1 import data_pb2, data_pb2_grpc, training_pb2, training_pb2_grpc
from servicekit.errors import KINDS, InvalidArgument, LeptonError, NotFound, ResourceExhausted
from servicekit.rpc.statuses import DETAILS_KEY, DOMAIN
from tests.servicekit.rpc.desk import UNDECLARED, Serving
from tests.support.credentials import MakeToken, bearer

JOB = training_pb2.GetJobRequest(name="job-1")


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    encoded = dict(error.trailing_metadata())[DETAILS_KEY]
    assert isinstance(encoded, bytes)
    status = status_pb2.Status.FromString(encoded)
    assert status.code == error.code().value[0]
    return status


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status_of(error).details[0].Unpack(info)
    assert info.domain == DOMAIN
    return info


async def failure(call: grpc.aio.Call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return raised.value


async def test_token_opens_its_workspace(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        job = await stub.GetJob(JOB, metadata=bearer(make_token("viewer", workspace="team-a")))
    assert (job.name, job.message, job.worker) == ("job-1", "team-a VIEWER", "viewer@test")


async def test_calls_at_the_same_time_keep_their_identities_apart(serving: Serving, make_token: MakeToken) -> None:
    workspaces = [f"team-{number}" for number in range(20)]
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        jobs = await asyncio.gather(
            *(stub.GetJob(JOB, metadata=bearer(make_token(workspace=workspace))) for workspace in workspaces)
        )
    assert [job.message.split()[0] for job in jobs] == workspaces


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "TOKEN_ABSENT"),
        ("Bearer forged.forged.forged", "TOKEN_INVALID"),
        ("Basic YTpi", "TOKEN_MALFORMED"),
    ],
)
async def test_call_without_a_good_token_is_unauthenticated(serving: Serving, header: str | None, reason: str) -> None:
    metadata = (("authorization", header),) if header else ()
    async with serving.channel() as channel:
        error = await failure(training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB, metadata=metadata))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info_of(error).reason == reason


async def test_expired_token_is_unauthenticated(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token(expires_in=-5))))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info_of(error).reason == "TOKEN_EXPIRED"


async def test_workspace_header_does_not_open_another_workspace(serving: Serving, make_token: MakeToken) -> None:
    metadata = (*bearer(make_token("admin", workspace="team-a")), ("lepton-workspace", "team-b"))
    async with serving.channel() as channel:
        error = await failure(training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB, metadata=metadata))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_role_too_low_is_denied_before_the_request_is_looked_at(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        metadata = bearer(make_token("viewer"))
        error = await failure(stub.CreateJob(training_pb2.CreateJobRequest(), metadata=metadata))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert dict(info_of(error).metadata) == {"needed": "developer", "role": "viewer"}


async def test_admin_cannot_make_calls_of_the_services_own(serving: Serving, make_token: MakeToken) -> None:
    request = training_pb2.StartJobRequest(name="job-1", worker="w", epoch=1)
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.StartJob(request, metadata=bearer(make_token("admin"))))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_rpc_without_a_declared_permission_is_refused_to_all(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        call = channel.unary_unary(
            UNDECLARED, training_pb2.GetJobRequest.SerializeToString, training_pb2.Job.FromString
        )
        error = await failure(call(JOB, metadata=bearer(make_token("admin"))))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert info_of(error).reason == "NO_PERMISSION_DECLARED"


async def test_private_port_refuses_clients_without_a_certificate(serving: Serving, make_token: MakeToken) -> None:
    authority = grpc.ssl_channel_credentials((serving.credentials / "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(serving.private_address, authority) as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token("admin")), timeout=120))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_is_refused(serving: Serving, make_token: MakeToken) -> None:
    async with grpc.aio.insecure_channel(f"localhost:{serving.running.port}") as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token("admin")), timeout=120))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
async def test_every_kind_of_error_arrives_with_its_status_and_reason(
    serving: Serving, make_token: MakeToken, kind: type[LeptonError]
) -> None:
    serving.desk.error = kind("told", reason="SO_IT_IS", metadata={"model": "credit"})
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token())))
    assert (error.code().name, error.details()) == (kind.status, "told")
    assert info_of(error).reason == "SO_IT_IS"
    assert dict(info_of(error).metadata) == {"model": "credit"}


async def test_broken_rules_come_as_field_violations(serving: Serving, make_token: MakeToken) -> None:
    spec = training_pb2.JobSpec(kind=training_pb2.JOB_KIND_FIT, dataset="no ref", target="t" * 300)
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        call = stub.CreateJob(training_pb2.CreateJobRequest(spec=spec), metadata=bearer(make_token()))
        error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert status_of(error).details[1].Unpack(bad)
    assert {"spec.dataset", "spec.target"} <= {violation.field for violation in bad.field_violations}


async def test_each_message_of_a_stream_is_checked(serving: Serving, make_token: MakeToken) -> None:
    good = data_pb2.ImportDatasetRequest(chunk=b"a,b\n1,2\n")
    bad = data_pb2.ImportDatasetRequest(end=data_pb2.ImportEnd(sha256=""))
    async with serving.channel() as channel:
        stub = data_pb2_grpc.DataServiceStub(channel)
        answer = await stub.ImportDataset(iter([good, good]), metadata=bearer(make_token()))
        assert answer.version.number == 2
        error = await failure(stub.ImportDataset(iter([good, bad]), metadata=bearer(make_token())))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "end.sha256" in (error.details() or "")


async def test_bytes_that_are_no_message_are_an_invalid_argument(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/lepton.v1.TrainingService/GetJob")
        error = await failure(call(b"\xff\xff\xff", metadata=bearer(make_token())))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).reason == "MESSAGE_UNREADABLE"


async def test_unexpected_error_is_logged_whole_and_sent_as_an_id(
    serving: Serving, make_token: MakeToken, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.desk.error = ZeroDivisionError("secret row 17: income=123")
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token())))
    assert error.code() is grpc.StatusCode.INTERNAL
    error_id = info_of(error).metadata["id"]
    assert error.details() == f"internal error (id {error_id})"
    assert "secret" not in str(error.trailing_metadata())
    logged = capsys.readouterr().out
    assert error_id in logged
    assert "secret row 17" in logged


async def test_unexpected_error_in_a_stream_leaks_nothing_and_cleans_up(
    serving: Serving, make_token: MakeToken
) -> None:
    serving.desk.error = ZeroDivisionError("secret")
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        call = stub.WatchJob(training_pb2.WatchJobRequest(name="job-1"), metadata=bearer(make_token()))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            _ = [update async for update in call]
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.value)
    assert serving.desk.cleaned_up.is_set()


async def test_dependency_that_does_not_answer_is_unavailable(serving: Serving, make_token: MakeToken) -> None:
    serving.desk.error = ConnectionResetError("10.0.0.7:5432")
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetJob(JOB, metadata=bearer(make_token())))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "10.0.0.7" not in str(error)


async def test_call_without_a_deadline_gets_the_default(hurried: Serving, make_token: MakeToken) -> None:
    async with hurried.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token())))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "the call took longer than 0.5 s"


async def test_longer_deadline_of_the_client_counts(hurried: Serving, make_token: MakeToken) -> None:
    async with hurried.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        call = stub.ListJobs(training_pb2.ListJobsRequest(), metadata=bearer(make_token()), timeout=120)
        await asyncio.sleep(0.8)
        hurried.desk.go_on.set()
        assert [job.name for job in (await call).jobs] == ["late"]


async def test_stream_outlives_the_default_deadline_and_is_closed_when_the_client_leaves(
    hurried: Serving, make_token: MakeToken
) -> None:
    async with hurried.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        call = stub.WatchJob(training_pb2.WatchJobRequest(name="job-1"), metadata=bearer(make_token()))
        assert (await anext(aiter(call))).sequence == 1
        await asyncio.sleep(0.8)
        assert not hurried.desk.cleaned_up.is_set()
        call.cancel()
        await asyncio.wait_for(hurried.desk.cleaned_up.wait(), 120)


async def test_request_over_the_limit_is_resource_exhausted(serving: Serving, make_token: MakeToken) -> None:
    request = data_pb2.ImportDatasetRequest(chunk=b"x" * (1 << 17))
    async with serving.channel() as channel:
        error = await failure(
            data_pb2_grpc.DataServiceStub(channel).ImportDataset(iter([request]), metadata=bearer(make_token()))
        )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (error.details() or "")


async def test_answer_over_the_limit_is_resource_exhausted(serving: Serving, make_token: MakeToken) -> None:
    async with serving.channel() as channel:
        stub = data_pb2_grpc.DataServiceStub(channel)
        metadata = bearer(make_token())
        small = [part async for part in stub.ReadDataset(data_pb2.ReadDatasetRequest(ref="1000"), metadata=metadata)]
        assert len(small[0].arrow) == 1000
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            _ = [part async for part in stub.ReadDataset(data_pb2.ReadDatasetRequest(ref="70000"), metadata=metadata)]
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info_of(raised.value).reason == "ANSWER_TOO_LARGE"


@pytest.mark.parametrize(
    "error",
    [
        NotFound("nö " * 100_000, metadata={f"key{number}": "v" * 1000 for number in range(50)}),
        InvalidArgument("bad", violations=[(f"items[{number}].name", "wrong " * 200) for number in range(1000)]),
        ResourceExhausted("full " * 10_000, retry_seconds=2.5),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_of_any_size_fit_into_trailers(
    serving: Serving, make_token: MakeToken, error: LeptonError
) -> None:
    serving.desk.error = error
    async with serving.channel() as channel:
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        arrived = await failure(stub.GetJob(JOB, metadata=bearer(make_token())))
    assert arrived.code().name == error.status
    assert info_of(arrived).reason == error.reason


async def test_failed_calls_are_logged_without_their_tokens(
    serving: Serving, make_token: MakeToken, capsys: pytest.CaptureFixture[str]
) -> None:
    token = make_token()
    serving.desk.error = NotFound("no job 'job-1'")
    async with serving.channel() as channel:
        await failure(training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB, metadata=bearer(token)))
    output = capsys.readouterr().out
    assert "no job 'job-1'" in output
    assert token not in output
