"""The registry's RPCs: from proto, call, to proto."""

from collections.abc import AsyncIterator

from lepton.v1 import registry_pb2 as pb
from lepton.v1 import registry_pb2_grpc
from servicekit.auth import Role, current_identity
from servicekit.errors import InvalidArgument
from servicekit.paging import Page
from servicekit.resource_users import ResourceUsers, users_to_proto
from servicekit.rpc import Context
from servicekit.state import State
from services.registry.adapters.repository import SqlRepository
from services.registry.convert import (
    alias_to_proto,
    artifact_to_proto,
    declaration_from_proto,
    model_to_proto,
    move_to_proto,
    version_to_proto,
)
from services.registry.deletion import Deletion
from services.registry.domain import registry
from services.registry.domain.checks import check_claim
from services.registry.domain.uploads import Uploads, settle
from services.registry.ports import ArtifactStore


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Serves lepton.v1.RegistryService.

    Args:
        uploads: artifacts and checks.
        artifacts: where they are stored.
        state: the database.
        max_artifact_bytes: a larger artifact is refused.
        users: looks up what uses a version that is to be deleted.
    """

    def __init__(
        self,
        uploads: Uploads,
        artifacts: ArtifactStore,
        state: State[SqlRepository],
        max_artifact_bytes: int,
        users: ResourceUsers,
    ) -> None:
        self._deletion = Deletion(state, users)
        self._uploads = uploads
        self._artifacts = artifacts
        self._state = state
        self._max_artifact_bytes = max_artifact_bytes

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.Version:
        """Take the next number."""
        identity = current_identity()
        declared = declaration_from_proto(request)
        check_claim(declared, is_service=identity.role is Role.SERVICE)

        async def act(repository: SqlRepository) -> pb.Version:
            version = await registry.create_version(
                repository, identity.workspace, request.model, declared, self._max_artifact_bytes
            )
            return version_to_proto(version)

        return await self._state.once(request, pb.Version, act)

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Context
    ) -> pb.Artifact:
        """Store a declared artifact."""
        header = await _header(request_iterator)
        workspace = current_identity().workspace
        stored = await self._uploads.upload(workspace, header.ref, header.name, _chunks(request_iterator))
        return artifact_to_proto(stored)

    async def FinalizeVersion(self, request: pb.FinalizeVersionRequest, context: Context) -> pb.Version:
        """Check a version: READY or FAILED. A repeat finds it so."""
        workspace = current_identity().workspace
        # Outside of the transaction, for it takes long; nothing is changed before the verdict is there.
        verdict = await self._uploads.judge(workspace, request.ref)

        async def act(repository: SqlRepository) -> pb.Version:
            return version_to_proto(await settle(repository, workspace, request.ref, verdict))

        return await self._state.once(request, pb.Version, act)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.Version:
        """Return a version."""
        async with self._state.reading() as repository:
            version = await registry.find_version(repository, current_identity().workspace, request.ref)
        return version_to_proto(version)

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:
        """Return a page of a model's versions."""
        page = Page(request.page_size, request.page_token, request.filter)
        workspace = current_identity().workspace
        async with self._state.reading() as repository:
            await registry.find_model(repository, workspace, request.model)
            found, token = await repository.list_versions(workspace, request.model, page)
        return pb.ListVersionsResponse(versions=[version_to_proto(item) for item in found], next_page_token=token)

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        """Delete a version, then its objects."""
        if (kept := await self._state.answered(request, pb.DeleteVersionResponse)) is not None:
            return kept
        identity = current_identity()
        objects: list[str] = []
        async with self._deletion.of_version(identity.workspace, request.ref, force=request.force) as found:

            async def act(repository: SqlRepository) -> pb.DeleteVersionResponse:
                version = await registry.delete_version(
                    repository, identity.workspace, request.ref, identity.subject, force=request.force
                )
                objects.extend(artifact.object_name for artifact in version.artifacts if artifact.object_name)
                return pb.DeleteVersionResponse(broken=users_to_proto(found.users), unchecked=found.unchecked)

            answer = await self._state.once(request, pb.DeleteVersionResponse, act)
        await self._artifacts.remove(identity.workspace, objects)
        return answer

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """Stream an artifact."""
        async for chunk in self._uploads.download(current_identity().workspace, request.ref, request.name):
            yield pb.DownloadArtifactResponse(chunk=chunk)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        """Return a model."""
        async with self._state.reading() as repository:
            return model_to_proto(await registry.find_model(repository, current_identity().workspace, request.name))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Return a page of models."""
        page = Page(request.page_size, request.page_token, request.filter, request.order_by)
        async with self._state.reading() as repository:
            found, token = await repository.list_models(current_identity().workspace, page)
        return pb.ListModelsResponse(models=[model_to_proto(model) for model in found], next_page_token=token)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        """Delete a model, then its objects."""
        if (kept := await self._state.answered(request, pb.DeleteModelResponse)) is not None:
            return kept
        identity = current_identity()
        objects: list[str] = []
        async with self._deletion.of_model(identity.workspace, request.name, force=request.force) as found:

            async def act(repository: SqlRepository) -> pb.DeleteModelResponse:
                removed = await registry.delete_model(
                    repository, identity.workspace, request.name, identity.subject, force=request.force
                )
                objects.extend(removed)
                return pb.DeleteModelResponse(broken=users_to_proto(found.users), unchecked=found.unchecked)

            answer = await self._state.once(request, pb.DeleteModelResponse, act)
        await self._artifacts.remove(identity.workspace, objects)
        return answer

    async def PromoteVersion(self, request: pb.PromoteVersionRequest, context: Context) -> pb.Alias:
        """Point an alias at a version."""
        identity = current_identity()

        async def act(repository: SqlRepository) -> pb.Alias:
            alias = await registry.promote(
                repository, identity.workspace, request.ref, request.alias, request.etag, identity.subject
            )
            return alias_to_proto(alias)

        return await self._state.once(request, pb.Alias, act)

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.Alias:
        """Point an alias back."""
        identity = current_identity()

        async def act(repository: SqlRepository) -> pb.Alias:
            alias = await registry.roll_back(
                repository, identity.workspace, request.model, request.alias, request.etag, identity.subject
            )
            return alias_to_proto(alias)

        return await self._state.once(request, pb.Alias, act)

    async def GetAlias(self, request: pb.GetAliasRequest, context: Context) -> pb.Alias:
        """Return an alias."""
        async with self._state.reading() as repository:
            alias = await registry.find_alias(repository, current_identity().workspace, request.model, request.alias)
        return alias_to_proto(alias)

    async def ListAliases(self, request: pb.ListAliasesRequest, context: Context) -> pb.ListAliasesResponse:
        """Return a model's aliases."""
        workspace = current_identity().workspace
        async with self._state.reading() as repository:
            await registry.find_model(repository, workspace, request.model)
            found = await repository.aliases_of(workspace, request.model)
        return pb.ListAliasesResponse(aliases=[alias_to_proto(alias) for alias in found])

    async def ListAliasHistory(
        self, request: pb.ListAliasHistoryRequest, context: Context
    ) -> pb.ListAliasHistoryResponse:
        """Return a page of an alias's moves."""
        page = Page(request.page_size, request.page_token)
        workspace = current_identity().workspace
        async with self._state.reading() as repository:
            await registry.check_known_alias(repository, workspace, request.model, request.alias)
            found, token = await repository.list_moves(workspace, request.model, request.alias, page)
        return pb.ListAliasHistoryResponse(moves=[move_to_proto(move) for move in found], next_page_token=token)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Delete an alias."""
        identity = current_identity()

        async def act(repository: SqlRepository) -> pb.DeleteAliasResponse:
            await registry.delete_alias(
                repository, identity.workspace, request.model, request.alias, request.etag, identity.subject
            )
            return pb.DeleteAliasResponse()

        return await self._state.once(request, pb.DeleteAliasResponse, act)


async def _header(requests: AsyncIterator[pb.UploadArtifactRequest]) -> pb.UploadArtifactHeader:
    async for request in requests:
        if request.HasField("header"):
            return request.header
        break
    raise InvalidArgument("an upload begins with a header", reason="BAD_STREAM")


async def _chunks(requests: AsyncIterator[pb.UploadArtifactRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.HasField("header"):
            raise InvalidArgument("an upload has one header, at its beginning", reason="BAD_STREAM")
        yield request.chunk
