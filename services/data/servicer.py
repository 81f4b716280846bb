"""The data service's RPCs: from proto, call, to proto."""

from collections.abc import AsyncIterator

import pyarrow as pa

from lepton.v1 import data_pb2 as pb
from lepton.v1 import data_pb2_grpc
from servicekit.auth import current_identity
from servicekit.paging import Page
from servicekit.rpc import Context
from servicekit.state import State
from services.data.adapters.repository import SqlRepository
from services.data.adapters.streams import ArrowChunks, ImportStream
from services.data.convert import (
    dataset_to_proto,
    format_from_proto,
    profile_to_proto,
    recipe_from_proto,
    version_to_proto,
)
from services.data.domain.datasets import Datasets, add_version, check_columns, find_dataset, find_version
from services.data.domain.types import DatasetVersion, Provenance

_PREVIEW_ROWS = 10


class DataServicer(data_pb2_grpc.DataServiceServicer):
    """Serves lepton.v1.DataService.

    Args:
        datasets: the use cases.
        state: the database.
    """

    def __init__(self, datasets: Datasets, state: State[SqlRepository]) -> None:
        self._datasets = datasets
        self._state = state

    async def ImportDataset(
        self, request_iterator: AsyncIterator[pb.ImportDatasetRequest], context: Context
    ) -> pb.ImportDatasetResponse:
        """Store an upload, then give it its number."""
        workspace = current_identity().workspace
        upload = await ImportStream.begin(request_iterator)
        header = upload.header
        content = await self._datasets.import_file(
            workspace, upload.chunks(), upload.sha256, format_from_proto(header.format), header.delimiter, header.label
        )
        provenance = Provenance(header.label, header.source, recipe_from_proto(header.recipe), header.parent)
        answer = pb.ImportDatasetResponse()

        async def commit() -> list[DatasetVersion]:
            kept: list[DatasetVersion] = []

            async def act(repository: SqlRepository) -> pb.ImportDatasetResponse:
                kept.append(await add_version(repository, workspace, header.dataset, content, provenance))
                return pb.ImportDatasetResponse(version=version_to_proto(kept[0]))

            answer.CopyFrom(await self._state.once(header, pb.ImportDatasetResponse, act))
            return kept

        await self._datasets.keep(commit, workspace, [content])
        return answer

    async def TransformDataset(
        self, request: pb.TransformDatasetRequest, context: Context
    ) -> pb.TransformDatasetResponse:
        """Store what the recipe makes, then give it its numbers."""
        workspace = current_identity().workspace
        source = await self._datasets.version(workspace, request.source)
        made = await self._datasets.transform(source, recipe_from_proto(request.recipe))
        names = (request.dataset, request.test_dataset or f"{request.dataset[:58]}-test")
        answer = pb.TransformDatasetResponse()

        async def commit() -> list[DatasetVersion]:
            kept: list[DatasetVersion] = []

            async def act(repository: SqlRepository) -> pb.TransformDatasetResponse:
                for name, (content, provenance) in zip(names, made, strict=False):
                    kept.append(await add_version(repository, workspace, name, content, provenance))
                return pb.TransformDatasetResponse(versions=[version_to_proto(version) for version in kept])

            answer.CopyFrom(await self._state.once(request, pb.TransformDatasetResponse, act))
            return kept

        await self._datasets.keep(commit, workspace, [content for content, _ in made])
        return answer

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
        workspace = current_identity().workspace
        removed: list[DatasetVersion] = []

        async def act(repository: SqlRepository) -> pb.DeleteDatasetResponse:
            await find_dataset(repository, workspace, request.name)
            removed.extend(await repository.remove_dataset(workspace, request.name))
            return pb.DeleteDatasetResponse()

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
            found, token = await repository.list_versions(workspace, request.dataset, page)
        versions = [version_to_proto(version) for version in found]
        return pb.ListDatasetVersionsResponse(versions=versions, next_page_token=token)

    async def DeleteDatasetVersion(
        self, request: pb.DeleteDatasetVersionRequest, context: Context
    ) -> pb.DeleteDatasetVersionResponse:
        """Delete a version, then its objects."""
        workspace = current_identity().workspace
        removed: list[DatasetVersion] = []

        async def act(repository: SqlRepository) -> pb.DeleteDatasetVersionResponse:
            removed.append(await find_version(repository, workspace, request.ref))
            await repository.remove_version(removed[0])
            return pb.DeleteDatasetVersionResponse()

        answer = await self._state.once(request, pb.DeleteDatasetVersionResponse, act)
        await self._datasets.discard(removed)
        return answer

    async def GetDatasetProfile(self, request: pb.GetDatasetProfileRequest, context: Context) -> pb.DatasetProfile:
        """Return a version's profile."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        return profile_to_proto(await self._datasets.profile(version))

    async def PreviewDataset(self, request: pb.PreviewDatasetRequest, context: Context) -> pb.PreviewDatasetResponse:
        """Return a version's first rows."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        rows = await self._datasets.first_rows(version, request.rows or _PREVIEW_ROWS)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        return pb.PreviewDatasetResponse(arrow=sink.getvalue().to_pybytes())

    async def ReadDataset(
        self, request: pb.ReadDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ReadDatasetResponse]:
        """Stream a version's rows."""
        version = await self._datasets.version(current_identity().workspace, request.ref)
        check_columns(list(request.columns), version.content.columns)
        table = await self._datasets.rows(version)
        async for chunk in ArrowChunks(table, list(request.columns) or None):
            yield pb.ReadDatasetResponse(arrow=chunk)
