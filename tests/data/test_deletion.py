"""Datasets in use cannot be deleted: queued and running jobs, and deployments whose plans are judged on them."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from lepton.v1 import data_pb2 as pb
from lepton.v1 import inference_pb2, training_pb2
from lepton.v1.data_pb2_grpc import DataServiceStub, add_DataServiceServicer_to_server
from servicekit.database import open_database
from servicekit.objects import Objects
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel, statuses
from servicekit.server import Servicer, running_server
from servicekit.state import State
from services.data.adapters import tables
from services.data.adapters.dataset_users import use_of_deployment, use_of_job
from services.data.adapters.repository import SqlRepository
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.domain.work import Work
from services.data.servicer import DataServicer
from services.data.settings import DataSettings
from tests.scheduler.neighbours import Owners, running_owners
from tests.support.credentials import MakeToken, bearer, environment_of, public_channel
from tests.support.nats import NatsServer


@dataclass
class Running:
    """A data service, what the services beside it list, and a developer's stub."""

    owners: Owners
    stub: Any
    metadata: tuple[tuple[str, str], ...]

    async def call(self, method: str, request: object) -> Any:
        """Call a method as a developer."""
        return await getattr(self.stub, method)(request, metadata=self.metadata)

    async def import_rows(self, dataset: str, content: bytes) -> None:
        """Import a CSV file."""

        async def messages() -> AsyncIterator[pb.ImportDatasetRequest]:
            yield pb.ImportDatasetRequest(header=pb.ImportHeader(dataset=dataset, format=pb.FILE_FORMAT_CSV))
            yield pb.ImportDatasetRequest(chunk=content)
            yield pb.ImportDatasetRequest(end=pb.ImportEnd(sha256=hashlib.sha256(content).hexdigest()))

        await self.stub.ImportDataset(messages(), metadata=self.metadata)

    async def refusal(self, method: str, request: object) -> tuple[str, str, str]:
        """Return status, reason and message of a refused call."""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.call(method, request)
        error = statuses.from_rpc_error(refusal.value)
        return error.status, error.reason, error.message


@contextlib.asynccontextmanager
async def _running(
    credentials: Path, folder: Path, metadata: tuple[tuple[str, str], ...], owners: Owners
) -> AsyncIterator[Running]:
    settings = DataSettings.model_validate(
        {
            **environment_of(credentials, "data"),
            "database_url": f"sqlite+aiosqlite:///{folder / 'data'}.sqlite3",
            "objects_url": (folder / "objects").as_uri(),
        }
    )
    async with (
        open_database(settings.database_url, "services.data.migrations") as database,
        open_channel(f"localhost:{owners.port or 1}", settings) as beside,
    ):
        state = State(database, tables.kit, SqlRepository)
        store = ObjectTableStore(Objects.open(settings, "data"), settings.max_upload_bytes, Work(1))
        users = RemoteUsers(beside, beside)
        servicer = DataServicer(Datasets(store, state.reading), state, settings.max_message_bytes, users)
        service = Servicer("lepton.v1.DataService", lambda server: add_DataServiceServicer_to_server(servicer, server))
        async with running_server(settings, [service]) as server, public_channel(server.port, credentials) as channel:
            yield Running(owners, DataServiceStub(channel), metadata)


async def test_a_dataset_in_use_is_not_deleted_and_force_says_what_breaks(
    platform_files: Path, tmp_path: Path, make_token: MakeToken, nats_server: NatsServer
) -> None:
    owners = Owners()
    async with (
        running_owners(owners, platform_files, nats_server),
        _running(platform_files, tmp_path, bearer(make_token()), owners) as data,
    ):
        await data.import_rows("rows", b"a,b\n1,2\n3,4\n")
        await data.import_rows("rows", b"a,b\n5,6\n")
        spec = training_pb2.JobSpec(kind=training_pb2.JOB_KIND_FIT, dataset="rows@1")
        owners.jobs["job-1"] = training_pb2.Job(name="job-1", spec=spec, state=training_pb2.JOB_STATE_RUNNING)
        one = pb.DeleteDatasetVersionRequest(ref="rows@1", request_id="d")
        status, reason, message = await data.refusal("DeleteDatasetVersion", one)
        assert (status, reason) == ("FAILED_PRECONDITION", "DATASET_VERSION_IN_USE")
        assert "rows@1 is in use: job job-1 trains on it" in message
        whole = pb.DeleteDatasetRequest(name="rows")
        assert (await data.refusal("DeleteDataset", whole))[1] == "DATASET_IN_USE"
        await data.call("DeleteDatasetVersion", pb.DeleteDatasetVersionRequest(ref="rows@2"))
        owners.jobs.clear()
        assert not (await data.call("DeleteDatasetVersion", one)).broken
        # A repeat gets the first answer.
        await data.call("DeleteDatasetVersion", one)
        await data.import_rows("rows", b"a,b\n7,8\n")
        tuning = inference_pb2.Tuning(dataset="rows@3")
        owners.deployments["d"] = inference_pb2.Deployment(name="d", version="m@1", number=1, tuning=tuning)
        assert (await data.refusal("DeleteDataset", whole))[1] == "DATASET_IN_USE"
        answer = await data.call("DeleteDataset", pb.DeleteDatasetRequest(name="rows", force=True))
        assert [(item.kind, item.name) for item in answer.broken] == [("deployment", "d")]


async def test_while_users_cannot_be_looked_up_only_force_deletes(
    platform_files: Path, tmp_path: Path, make_token: MakeToken
) -> None:
    async with _running(platform_files, tmp_path, bearer(make_token()), Owners()) as data:
        await data.import_rows("rows", b"a,b\n1,2\n")
        status, reason, _ = await data.refusal("DeleteDataset", pb.DeleteDatasetRequest(name="rows"))
        assert (status, reason) == ("UNAVAILABLE", "USERS_UNKNOWN")
        answer = await data.call("DeleteDataset", pb.DeleteDatasetRequest(name="rows", force=True))
        assert "cannot be looked up" in answer.unchecked


@pytest.mark.parametrize(
    ("ref", "number", "is_used"),
    [("rows@1", 1, True), ("rows@1", 2, False), ("rows", 2, True), ("rows@1", None, True), ("other@1", 1, False)],
)
def test_a_name_alone_may_mean_any_version(ref: str, number: int | None, is_used: bool) -> None:
    job = training_pb2.Job(spec=training_pb2.JobSpec(dataset="else@1", evaluation_dataset=ref))
    assert bool(use_of_job(job, "rows", number)) is is_used
    deployment = inference_pb2.Deployment(tuning=inference_pb2.Tuning(dataset=ref))
    assert bool(use_of_deployment(deployment, "rows", number)) is is_used
