"""Services of the tests' own on the contract's stubs: they answer with who called, or fail as they are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from lepton.v1 import data_pb2, data_pb2_grpc, training_pb2, training_pb2_grpc
from servicekit.auth import current_identity
from servicekit.rpc import Context
from servicekit.server import RunningServer, Servicer, running_server
from servicekit.settings import ProcessSettings
from servicekit.telemetry import current_traceparent
from tests.support.credentials import public_channel

UNDECLARED = "/lepton.test.Undeclared/Get"


@dataclass
class TrainingDesk(training_pb2_grpc.TrainingServiceServicer):
    """Answers GetJob with who asked.

    Args:
        error: what GetJob and the second message of WatchJob raise; None for an answer.
        entered: set once a call that waits is under way.
        go_on: what such a call waits for.
        cleaned_up: set when WatchJob's generator was closed.
    """

    error: BaseException | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    cleaned_up: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    async def GetJob(self, request: training_pb2.GetJobRequest, context: Context) -> training_pb2.Job:
        self.calls += 1
        if self.error is not None:
            raise self.error
        identity = current_identity()
        return training_pb2.Job(
            name=request.name,
            message=f"{identity.workspace} {identity.role.name}",
            worker=identity.subject,
            traceparent=current_traceparent(),
        )

    async def StartJob(self, request: training_pb2.StartJobRequest, context: Context) -> training_pb2.Job:
        return training_pb2.Job(name=request.name, worker=current_identity().subject)

    async def CancelJob(self, request: training_pb2.CancelJobRequest, context: Context) -> training_pb2.Job:
        self.calls += 1
        if self.error is not None and self.calls == 1:
            raise self.error
        return training_pb2.Job(name=request.name)

    async def CreateJob(self, request: training_pb2.CreateJobRequest, context: Context) -> training_pb2.Job:
        return training_pb2.Job(spec=request.spec)

    async def ListJobs(self, request: training_pb2.ListJobsRequest, context: Context) -> training_pb2.ListJobsResponse:
        self.entered.set()
        await self.go_on.wait()
        return training_pb2.ListJobsResponse(jobs=[training_pb2.Job(name="late")])

    async def WatchJob(
        self, request: training_pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchJobResponse]:
        try:
            yield training_pb2.WatchJobResponse(sequence=request.after_sequence + 1)
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.cleaned_up.set()


class DataDesk(data_pb2_grpc.DataServiceServicer):
    """Counts what is imported; reads as many bytes as the reference's name says."""

    async def ImportDataset(
        self, request_iterator: AsyncIterator[data_pb2.ImportDatasetRequest], context: Context
    ) -> data_pb2.ImportDatasetResponse:
        count = 0
        async for _ in request_iterator:
            count += 1
        return data_pb2.ImportDatasetResponse(version=data_pb2.DatasetVersion(number=count))

    async def ReadDataset(
        self, request: data_pb2.ReadDatasetRequest, context: Context
    ) -> AsyncIterator[data_pb2.ReadDatasetResponse]:
        yield data_pb2.ReadDatasetResponse(arrow=b"x" * int(request.ref))


def declare_undeclared() -> None:
    """Add a service to the pool whose RPC declares no permission."""
    file = descriptor_pb2.FileDescriptorProto(
        name="lepton/test/undeclared.proto",
        package="lepton.test",
        syntax="proto3",
        dependency=["lepton/v1/training.proto"],
    )
    service = file.service.add(name="Undeclared")
    service.method.add(name="Get", input_type=".lepton.v1.GetJobRequest", output_type=".lepton.v1.Job")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def add_undeclared(server: grpc.aio.Server) -> None:
    """Serve the RPC that declares no permission."""

    async def get(request: training_pb2.GetJobRequest, context: Context) -> training_pb2.Job:
        return training_pb2.Job(name="nobody may see this")

    handler = grpc.unary_unary_rpc_method_handler(
        get, training_pb2.GetJobRequest.FromString, training_pb2.Job.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("lepton.test.Undeclared", {"Get": handler})])


@dataclass(frozen=True)
class Serving:
    """A server of the desks.

    Args:
        running: the server.
        desk: the training desk behind it.
        credentials: the platform's folder of credentials.
    """

    running: RunningServer
    desk: TrainingDesk
    credentials: Path

    @property
    def private_address(self) -> str:
        """Where services call it."""
        return f"localhost:{self.running.private_port}"

    def channel(self) -> grpc.aio.Channel:
        """Return a channel as an outside client opens it."""
        return public_channel(self.running.port, self.credentials)


@contextlib.asynccontextmanager
async def serving_desks(settings: ProcessSettings, credentials: Path) -> AsyncIterator[Serving]:
    """Serve the desks."""
    declare_undeclared()
    # RPCs that no test calls are left to answer UNIMPLEMENTED.
    desk = TrainingDesk()  # type: ignore[abstract]
    data_desk = DataDesk()  # type: ignore[abstract]
    servicers = [
        Servicer(
            "lepton.v1.TrainingService",
            lambda server: training_pb2_grpc.add_TrainingServiceServicer_to_server(desk, server),
        ),
        Servicer(
            "lepton.v1.DataService", lambda server: data_pb2_grpc.add_DataServiceServicer_to_server(data_desk, server)
        ),
        Servicer("lepton.test.Undeclared", add_undeclared),
    ]
    async with running_server(settings, servicers) as running:
        yield Serving(running, desk, credentials)
