"""The Open Inference Protocol's RPCs."""

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version as library_version
from typing import TypeAlias, TypeVar

from servicekit.auth import current_identity
from servicekit.errors import InvalidArgument, NotFound, Unavailable
from servicekit.rpc import Context, bounded_timeout, statuses
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference import grpc_service_pb2_grpc
from services.inference.serving import descriptions
from services.inference.serving.codec import STICKY_METADATA
from services.inference.serving.forwarding import Forwarder, is_marked
from services.inference.serving.model import LoadedModel
from services.inference.serving.predictions import Predictions
from services.inference.serving.table import ServingTable

_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
# Requests of one stream that are under way at once; reading goes on when the oldest is answered.
_STREAM_REQUESTS = 64

_SERVICE = "inference.GRPCInferenceService"
# Questions about a model, and their answers.
_About: TypeAlias = pb.ModelReadyRequest | pb.ModelMetadataRequest | pb.ModelConfigRequest | pb.ModelStatisticsRequest
_Described = TypeVar(
    "_Described",
    pb.ModelReadyResponse,
    pb.ModelMetadataResponse,
    pb.ModelConfigResponse,
    pb.ModelStatisticsResponse,
)


class OpenInferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves inference.GRPCInferenceService from a worker's table.

    Args:
        table: who is served.
        deployments: the deployments service, for load and unload.
        predictions: answers them.
        forwarder: asks other workers of what stands there; None for a worker alone.
    """

    def __init__(
        self,
        table: ServingTable,
        deployments: DeploymentsClient,
        predictions: Predictions,
        forwarder: Forwarder | None = None,
    ) -> None:
        self._table = table
        self._forwarder = forwarder
        self._deployments = deployments
        self._predictions = predictions
        # Latched: ready after the first reconciliation, until the drain; hot swaps do not flip it.
        self.is_ready = False
        self.is_draining = False

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Answer a prediction."""
        answer = await self._predictions.infer(
            request, is_marked=is_marked_call(context), sticky_key=sticky_key_of_call(context)
        )
        context.set_trailing_metadata(answer.metadata)
        return answer.reply

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer a stream's predictions, in their order; what is wrong with one is told in its place."""
        sticky_key = sticky_key_of_call(context)
        under_way: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue(_STREAM_REQUESTS)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await under_way.put(asyncio.create_task(self._stream_answer(request, sticky_key)))
            finally:
                await under_way.put(None)

        reading = asyncio.create_task(read())
        try:
            while (answer := await under_way.get()) is not None:
                yield await answer
            await reading
        finally:
            reading.cancel()
            while not under_way.empty():
                if (left := under_way.get_nowait()) is not None:
                    left.cancel()

    async def _stream_answer(self, request: pb.ModelInferRequest, sticky_key: str) -> pb.ModelStreamInferResponse:
        try:
            answer = await self._predictions.infer(request, sticky_key=sticky_key)
        except Exception as error:
            known = statuses.known_error(error)
            return pb.ModelStreamInferResponse(
                error_message=known.message, infer_response=pb.ModelInferResponse(id=request.id)
            )
        answer.reply.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=answer.reply)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Say that the process serves."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Say whether the first placement was loaded."""
        return pb.ServerReadyResponse(ready=self.is_ready and not self.is_draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Say whether a model serves, here or elsewhere; an unknown one does not."""
        try:
            found = await self._find(request, context, pb.ModelReadyResponse)
        except (NotFound, Unavailable):
            return pb.ModelReadyResponse(ready=False)
        return found if isinstance(found, pb.ModelReadyResponse) else pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Say who this is and what it can do."""
        return pb.ServerMetadataResponse(name="lepton", version=library_version("lepton"), extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        found = await self._find(request, context, pb.ModelMetadataResponse)
        if isinstance(found, pb.ModelMetadataResponse):
            return found
        return descriptions.metadata(request.name, found, self._table.get(current_identity().workspace, request.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Say how a model is run, in Triton's words."""
        found = await self._find(request, context, pb.ModelConfigResponse)
        if isinstance(found, pb.ModelConfigResponse):
            return found
        return pb.ModelConfigResponse(config=descriptions.config(request.name, found))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """Say what the models did in this process: all of the workspace's, or those of a name, or one version.

        A model that does not serve here is asked for where it does.
        """
        if request.name:
            found = await self._find(request, context, pb.ModelStatisticsResponse)
            if isinstance(found, pb.ModelStatisticsResponse):
                return found
        workspace = current_identity().workspace
        if request.version:
            models = [(request.name, self._table.find(workspace, request.name, request.version))]
        else:
            models = [
                (name, model)
                for name, entry in self._table.of_workspace(workspace)
                for _, model in sorted(entry.models.items())
                if request.name in ("", name)
            ]
        return pb.ModelStatisticsResponse(model_stats=[descriptions.statistics(name, model) for name, model in models])

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """List the versions that stand here, and those that serve elsewhere."""
        workspace = current_identity().workspace
        rows = {
            (row.name, row.version): row
            for name, entry in self._table.of_workspace(workspace)
            for row in descriptions.index(name, entry)
        }
        for row in descriptions.elsewhere(self._forwarder.replicas(workspace) if self._forwarder else []):
            if (row.name, row.version) not in rows or rows[row.name, row.version].state != "READY":
                rows[row.name, row.version] = row
        listed = [row for _, row in sorted(rows.items()) if row.state == "READY" or not request.ready]
        return pb.RepositoryIndexResponse(models=listed)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Deploy a model's newest READY version, unless it is deployed, and wait until it serves."""
        if request.parameters:
            raise InvalidArgument(
                "parameters of a load are not supported: what is served is fixed in the registry",
                reason="UNSUPPORTED_PARAMETER",
            )
        await self._deployments.deploy(_model_name(request))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Delete a model's deployment."""
        await self._deployments.delete(_model_name(request))
        return pb.RepositoryModelUnloadResponse()

    async def _find(
        self, request: "_About", context: Context, reply_type: type[_Described]
    ) -> "LoadedModel | _Described":
        """Return the model that a question is about, or another worker's answer to it.

        Raises:
            NotFound: there is none anywhere.
            Unavailable: it does not serve yet.
        """
        identity = current_identity()
        try:
            return self._table.find(identity.workspace, request.name, request.version)
        except (NotFound, Unavailable) as why:
            if self._forwarder is None:
                raise
            method = f"/{_SERVICE}/{reply_type.DESCRIPTOR.name.removesuffix('Response')}"
            forwarded = await self._forwarder.unary(
                method,
                request.SerializeToString(),
                (request.name, request.version),
                identity,
                why,
                seconds=bounded_timeout(None),
                is_marked=is_marked_call(context),
            )
            return reply_type.FromString(forwarded.reply)


def is_marked_call(context: Context) -> bool:
    """Return whether a call was passed on already, by one of Lepton's own processes."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return is_marked(metadata, context.peer_identities())


def sticky_key_of_call(context: Context) -> str:
    """Return the key by which a call stays with one version; empty where its metadata has none."""
    for key, value in context.invocation_metadata() or ():
        if key == STICKY_METADATA:
            return str(value)
    return ""


def _model_name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    # KServe's message has the model where Triton's has the repository.
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidArgument(
            "model_name is required", reason="FIELD_RULES", violations=[("model_name", "is required")]
        )
    return name
