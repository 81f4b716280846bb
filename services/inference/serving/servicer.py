"""The Open Inference Protocol's RPCs."""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version as library_version

import onnxruntime as ort
import structlog
from opentelemetry import trace
from prometheus_client import Counter, Histogram

from servicekit import telemetry
from servicekit.auth import current_identity
from servicekit.errors import Internal, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from servicekit.rpc import Context
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference import grpc_service_pb2_grpc
from services.inference.serving.codec import STICKY_METADATA, parse_inputs, requested_outputs, sticky_key_of
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.replies import build_reply
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import Entry, ServingTable

_log = structlog.get_logger(__name__)
_tracer = telemetry.tracer(__name__)
_WHO = ["workspace", "deployment", "version"]
_REQUESTS = Counter("lepton_inference_requests_total", "Predictions served.", _WHO)
_FAULTS = Counter("lepton_inference_faults_total", "Runs that the model failed.", _WHO)
_COMPUTE = Histogram(
    "lepton_inference_compute_seconds",
    "Time in ONNX Runtime, with the wait for a thread where the model needs one, seconds.",
    _WHO,
    buckets=(0.00002, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
)
# A run shorter than this is quicker done at once than handed to a thread and back (about 60 microseconds, measured),
# and holds nobody up: health checks least of all.
_INLINE_SECONDS = 0.001
# Runs that may wait for a thread, by thread: more would only wait for their deadlines.
_QUEUE_FACTOR = 32
_RETRY_SECONDS = 1.0
_PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True)
class Answer:
    """A prediction's reply, and what goes beside it.

    Args:
        reply: the message.
        metadata: trailers, or headers over REST: the prediction's id and the execution provider.
    """

    reply: pb.ModelInferResponse
    metadata: tuple[tuple[str, str], ...]


class OpenInferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves inference.GRPCInferenceService from a worker's table.

    Args:
        table: who is served.
        deployments: the deployments service, for load and unload.
        threads: for runs that take long.
        typed_mirrors: whether a typed request gets a typed reply.
    """

    def __init__(
        self, table: ServingTable, deployments: DeploymentsClient, threads: int, *, typed_mirrors: bool
    ) -> None:
        self._table = table
        self._deployments = deployments
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="onnxruntime")
        self._queue_length = threads * _QUEUE_FACTOR
        self._queued = 0
        self._typed_mirrors = typed_mirrors
        self._shadow = Shadow()
        # Latched: ready after the first reconciliation, until the drain; hot swaps do not flip it.
        self.is_ready = False
        self.is_draining = False
        self.served = 0

    def close(self) -> None:
        """Forget what waits in the background."""
        self._shadow.close()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Answer a prediction."""
        answer = await self.infer(request, _sticky_key(context))
        context.set_trailing_metadata(answer.metadata)
        return answer.reply

    async def infer(self, request: pb.ModelInferRequest, sticky_key: str = "") -> Answer:
        """Answer a prediction of the current identity, whatever it came by.

        Args:
            request: what is asked; its parameter lepton_sticky_key goes before the other.
            sticky_key: of the call's metadata.
        """
        workspace = current_identity().workspace
        key = sticky_key_of(request) or sticky_key
        model = self._table.route(workspace, request.model_name, request.model_version, key)
        with model.release.measuring():
            inputs = parse_inputs(request, model)
            names = requested_outputs(request, model)
            arrays = await self._run(model, inputs, names)
            reply = build_reply(request, model, names, arrays, typed_mirrors=self._typed_mirrors)
        if not request.model_version:
            entry = self._table.get(workspace, request.model_name)
            if entry.split.compared:
                self._shadow.offer(entry, model, inputs, dict(zip(names, arrays, strict=True)))
        return Answer(reply, (("lepton-prediction-id", uuid.uuid4().hex), ("lepton-provider", model.provider)))

    async def _run(self, model: LoadedModel, inputs: dict[str, Array], names: list[str]) -> list[Array]:
        """Run a model, here or in a thread; one that is being removed stays until its last run ends."""
        rows = _rows(inputs)
        model.in_flight += 1
        started = time.perf_counter()
        try:
            with _span(model, rows):
                if model.expected_seconds(rows) < _INLINE_SECONDS:
                    return model.run(inputs, names)
                return await self._run_aside(model, inputs, names)
        except Internal as error:
            _FAULTS.labels(model.workspace, model.deployment, model.version).inc()
            # The cause is for whoever runs the platform, never for the client.
            _log.error("model failed", deployment=model.deployment, version=model.number, exc_info=error.__cause__)
            raise
        finally:
            model.in_flight -= 1
            seconds = time.perf_counter() - started
            model.learn(rows, seconds)
            self.served += 1
            requests, compute = _counters(model.workspace, model.deployment, model.version)
            requests.inc()
            compute.observe(seconds)

    async def _run_aside(self, model: LoadedModel, inputs: dict[str, Array], names: list[str]) -> list[Array]:
        """Run in a thread; a request whose caller is gone is not begun, or ended where it stands.

        Raises:
            ResourceExhausted: too many wait already.
        """
        if self._queued >= self._queue_length:
            raise ResourceExhausted(
                f"model {model.deployment!r}: {self._queued} runs wait already", retry_seconds=_RETRY_SECONDS
            )
        self._queued += 1
        options = ort.RunOptions()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, model.run, inputs, names, options)
        finally:
            # Of no effect on a run that ended by itself.
            options.terminate = True
            self._queued -= 1

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Say that the process serves."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Say whether the first placement was loaded."""
        return pb.ServerReadyResponse(ready=self.is_ready and not self.is_draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Say whether a model serves; an unknown one does not."""
        try:
            self._table.find(current_identity().workspace, request.name, request.version)
        except (NotFound, Unavailable):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Say who this is and what it can do."""
        extensions = ["binary_tensor_data", "classification", "model_repository", "parameters"]
        return pb.ServerMetadataResponse(name="lepton", version=library_version("lepton"), extensions=extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Say what a model takes and gives."""
        workspace = current_identity().workspace
        model = self._table.find(workspace, request.name, request.version)
        entry = self._table.get(workspace, request.name)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(number) for number in sorted(entry.models)],
            platform=_PLATFORM,
            inputs=[_metadata(spec.name, spec.datatype, spec.shape) for spec in model.inputs.values()],
            outputs=[_metadata(spec.name, spec.datatype, spec.shape) for spec in model.outputs.values()],
            properties={"digest": model.digest, "provider": model.provider},
        )

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """List the versions that stand here."""
        rows = [
            row
            for name, entry in self._table.of_workspace(current_identity().workspace)
            for row in _index(name, entry)
            if row.state == "READY" or not request.ready
        ]
        return pb.RepositoryIndexResponse(models=rows)

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


def _span(model: LoadedModel, rows: int) -> AbstractContextManager[object]:
    """Return a span around a run; none where the call's own is not recorded, for this one would not be either."""
    if not trace.get_current_span().is_recording():
        return nullcontext()
    attributes: dict[str, str | int] = {
        "lepton.deployment": model.deployment,
        "lepton.version": model.number,
        "lepton.provider": model.provider,
        "lepton.rows": rows,
    }
    return _tracer.start_as_current_span("onnxruntime.run", attributes=attributes)


@lru_cache(4096)
def _counters(workspace: str, deployment: str, version: str) -> tuple[Counter, Histogram]:
    """Return a version's metrics: looking them up by their labels takes longer than counting."""
    return _REQUESTS.labels(workspace, deployment, version), _COMPUTE.labels(workspace, deployment, version)


def _rows(inputs: dict[str, Array]) -> int:
    """Return the batch of a request, as its first input has it; 1 where there is none."""
    for array in inputs.values():
        return array.shape[0] if array.shape else 1
    return 1


def _sticky_key(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == STICKY_METADATA:
            return str(value)
    return ""


def _metadata(name: str, datatype: str, shape: tuple[int, ...]) -> "pb.ModelMetadataResponse.TensorMetadata":
    return pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)


def _index(name: str, entry: Entry) -> "list[pb.RepositoryIndexResponse.ModelIndex]":
    ready = [
        pb.RepositoryIndexResponse.ModelIndex(name=name, version=str(number), state="READY")
        for number in sorted(entry.models)
    ]
    waiting = [
        pb.RepositoryIndexResponse.ModelIndex(
            name=name, version=str(number), state="UNAVAILABLE" if reason else "LOADING", reason=reason
        )
        for number, reason in sorted(entry.waiting.items())
    ]
    leaving = [
        pb.RepositoryIndexResponse.ModelIndex(
            name=name, version=str(number), state="UNLOADING", reason="its last requests end"
        )
        for number in sorted(entry.leaving - set(entry.models) - set(entry.waiting))
    ]
    return ready + waiting + leaving


def _model_name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    # KServe's message has the model where Triton's has the repository.
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidArgument(
            "model_name is required", reason="FIELD_RULES", violations=[("model_name", "is required")]
        )
    return name
