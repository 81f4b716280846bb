"""The data service's RPCs: from proto, call, to proto."""

from collections.abc import AsyncIterator

from lepton.v1 import data_pb2 as pb
from lepton.v1 import data_pb2_grpc
from servicekit.auth import current_identity
from servicekit.errors import InvalidArgument
from servicekit.paging import Page
from servicekit.resource_users import FoundUsers, ResourceUsers, find_users, refuse_if_used, users_to_proto
from servicekit.rpc import Context
from servicekit.state import State
from services.data.adapters.dataset_users import use_of_deployment, use_of_job
from services.data.adapters.repository import SqlRepository
from services.data.adapters.streams import ArrowChunks, ImportStream, arrow_bytes
from services.data.convert import (
    dataset_to_proto,
    import_from_proto,
    profile_to_proto,
    recipe_from_proto,
    version_to_proto,
)
from services.data.domain import datasets as use
from services.data.domain.datasets import Datasets, add_version, check_columns, find_dataset
from services.data.domain.types import DatasetVersion

_PREVIEW_ROWS = 10


class DataServicer(data_pb2_grpc.DataServiceServicer):
    """Serves lepton.v1.DataService.

    Args:
        datasets: the use cases.
        state: the database.
        max_message_bytes: no answer is longer.
        users: looks up what uses a version that is to be deleted.
    """

    def __init__(
        self, datasets: Datasets, state: State[SqlRepository], max_message_bytes: int, users: ResourceUsers
    ) -> None:
        self._users = users
        self._datasets = datasets
        self._state = state
        self._most_bytes = max_message_bytes - 4096

    async def ImportDataset(
        self, request_iterator: AsyncIterator[pb.ImportDatasetRequest], context: Context
    ) -> pb.ImportDatasetResponse:
        """Store an upload, then give it its number."""
        workspace = current_identity().workspace
        stream = await ImportStream.begin(request_iterator)
        wanted = import_from_proto(stream.header)
        async with self._datasets.uploaded(workspace, stream.chunks(), stream.sha256) as upload:
            claim = stream.claim()
            if (answer := await self._state.answered(claim, pb.ImportDatasetResponse)) is not None:
                return answer
            content, origin = await self._datasets.import_file(workspace, upload, wanted)

            async def act(repository: SqlRepository) -> pb.ImportDatasetResponse:
                version = await add_version(repository, workspace, wanted.dataset, content, origin)
                return pb.ImportDatasetResponse(version=version_to_proto(version))

            return await self._datasets.keep(
                workspace, [content], lambda: self._state.once(claim, pb.ImportDatasetResponse, act)
            )

    async def TransformDataset(
        self, request: pb.TransformDatasetRequest, context: Context
    ) -> pb.TransformDatasetResponse:
        """Store what the recipe makes, then give it its numbers."""
        workspace = current_identity().workspace
        recipe = recipe_from_proto(request.recipe)
        names = _names(request)
        if (answer := await self._state.answered(request, pb.TransformDatasetResponse)) is not None:
            return answer
        source = await self._datasets.version(workspace, request.source)
        made = await self._datasets.transform(source, recipe)

        async def act(repository: SqlRepository) -> pb.TransformDatasetResponse:
            kept = [
                await add_version(repository, workspace, name, content, provenance)
                for name, (content, provenance) in zip(names, made, strict=False)
            ]
            return pb.TransformDatasetResponse(versions=[version_to_proto(version) for version in kept])

        return await self._datasets.keep(
            workspace,
            [content for content, _ in made],
            lambda: self._state.once(request, pb.TransformDatasetResponse, act),
        )

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.Dataset:
        """Return a dataset."""
        async with self._state.reading() as repository:
            return dataset_to_proto(await find_dataset(repository, current_identity().workspace, request.name))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """Return a page of datasets."""
        page = Page(request.page_size, request.page_token, request.filter, request.order_by)
        async with self._state.reading() as repository:
            found, token = await repository.list_datasets(current_identity().workspace, page)
        return pb.ListDatasetsResponse(datasets=[dataset_to_proto(item) for item in found], next_page_token=token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        """Delete a dataset, then its objects."""
        if (kept := await self._state.answered(request, pb.DeleteDatasetResponse)) is not None:
            return kept
        workspace = current_identity().workspace
        removed: list[DatasetVersion] = []
        async with self._state.reading() as repository:
            await find_dataset(repository, workspace, request.name)
        found = await self._users_of(request.name, None, force=request.force)

        async def act(repository: SqlRepository) -> pb.DeleteDatasetResponse:
            removed.extend(await use.remove_dataset(repository, workspace, request.name))
            return pb.DeleteDatasetResponse(broken=users_to_proto(found.users), unchecked=found.unchecked)

        answer = await self._state.once(request, pb.DeleteDatasetResponse, act)
        await self._datasets.discard(removed)
        return answer

    async def GetDatasetVersion(self, request: pb.GetDatasetVersionRequest, context: Context) -> pb.DatasetVersion:
        """Return a version."""
        return version_to_proto(await self._datasets.version(current_identity().workspace, request.ref))

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        """Return a page of a dataset's versions."""
        workspace = current_identity().workspace
        page = Page(request.page_size, request.page_token)
        async with self._state.reading() as repository:
            await find_dataset(repository, workspace, request.dataset)
            while True:
                found, token = await repository.list_versions(workspace, request.dataset, page)
                versions = [version_to_proto(version) for version in found]
                answer = pb.ListDatasetVersionsResponse(versions=versions, next_page_token=token)
                # Versions of very wide tables: a shorter page fits a message.
                if answer.ByteSize() <= self._most_bytes or page.limit == 1:
                    return answer
                page = Page(page.limit // 2, page.token)

    async def DeleteDatasetVersion(
        self, request: pb.DeleteDatasetVersionRequest, context: Context
    ) -> pb.DeleteDatasetVersionResponse:
        """Delete a version, then its objects."""
        if (kept := await self._state.answered(request, pb.DeleteDatasetVersionResponse)) is not None:
            return kept
        workspace = current_identity().workspace
        removed: list[DatasetVersion] = []
        version = await self._datasets.version(workspace, request.ref)
        found = await self._users_of(version.dataset, version.number, force=request.force)

        async def act(repository: SqlRepository) -> pb.DeleteDatasetVersionResponse:
            removed.append(await use.remove_version(repository, workspace, version.ref))
            return pb.DeleteDatasetVersionResponse(broken=users_to_proto(found.users), unchecked=found.unchecked)

        answer = await self._state.once(request, pb.DeleteDatasetVersionResponse, act)
        await self._datasets.discard(removed)
        return answer

    async def _users_of(self, dataset: str, number: int | None, *, force: bool) -> FoundUsers:
        """Return what uses a dataset, or one version of it.

        A job that is queued between this look and the deletion fails when it starts, and says that its dataset is gone.

        Raises:
            FailedPrecondition: something uses it, and force is not set.
            Unavailable: its users cannot be looked up, and force is not set.
        """
        what = dataset if number is None else f"{dataset}@{number}"
        found = await find_users(
            self._users,
            what,
            lambda deployment: use_of_deployment(deployment, dataset, number),
            lambda job: use_of_job(job, dataset, number),
            force=force,
        )
        if not force:
            refuse_if_used(what, found.users, "DATASET_IN_USE" if number is None else "DATASET_VERSION_IN_USE")
        return found

    async def GetDatasetProfile(self, request: pb.GetDatasetProfileRequest, context: Context) -> pb.DatasetProfile:
        """Return a version's profile."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        return profile_to_proto(await self._datasets.profile(version))

    async def PreviewDataset(self, request: pb.PreviewDatasetRequest, context: Context) -> pb.PreviewDatasetResponse:
        """Return a version's first rows."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        rows = await self._datasets.first_rows(version, request.rows or _PREVIEW_ROWS)
        return pb.PreviewDatasetResponse(arrow=arrow_bytes(rows, self._most_bytes))

    async def ReadDataset(
        self, request: pb.ReadDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ReadDatasetResponse]:
        """Stream a version's rows."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        columns = list(request.columns) or None
        check_columns(columns or [], version.content.columns)
        window = (columns, request.first_row, request.most_rows)
        table = await self._datasets.typed_rows(version, request.types, *window)
        async for chunk in ArrowChunks(table, *window):
            yield pb.ReadDatasetResponse(arrow=chunk)


def _names(request: pb.TransformDatasetRequest) -> tuple[str, str]:
    """Return the datasets to write: of the only or first part, and of the second."""
    steps = request.recipe.steps
    if request.test_dataset and not (steps and steps[-1].HasField("split")):
        raise InvalidArgument(
            "test_dataset is for the second part of a split, and the recipe does not end in one",
            violations=[("test_dataset", "the recipe does not end in a split")],
        )
    return request.dataset, request.test_dataset or f"{request.dataset[:58]}-test"
