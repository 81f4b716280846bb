"""How the SDK finds and calls a platform: TLS and a bearer token on every call, errors as `lepton.errors`.

The local platform is found through LEPTON_HOME; another one through LEPTON_HOST, LEPTON_CA and LEPTON_TOKEN or
LEPTON_TOKEN_FILE, or by `connect(...)`.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from lepton import errors, tracing
from lepton.embedded.home import Home
from lepton.embedded.processes import DEFAULT_BASE_PORT, INFERENCE_GRPC_OFFSET, SERVICE_OFFSETS
from lepton.v1.data_pb2_grpc import DataServiceStub
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from lepton.v1.prediction_pb2_grpc import PredictionServiceStub
from lepton.v1.registry_pb2_grpc import RegistryServiceStub
from lepton.v1.scheduler_pb2_grpc import SchedulerServiceStub
from lepton.v1.training_pb2_grpc import TrainingServiceStub

DEFAULT_TIMEOUT_SECONDS = 60.0
_MESSAGE_BYTES = 64 << 20
_HOW_TO_START = (
    "no Lepton platform is running here: start one with `lepton up`, or set LEPTON_HOST, LEPTON_CA and LEPTON_TOKEN"
)


class Connection:
    """One platform, one token.

    Args:
        host: host name or address of the platform, without a port.
        token: the bearer token.
        ca: PEM text of the certificate authority to trust.
        base_port: the platform's first port.
    """

    def __init__(self, host: str, token: str, ca: bytes, base_port: int = DEFAULT_BASE_PORT) -> None:
        self.host = host
        self.base_port = base_port
        self._token = token
        self._credentials = grpc.ssl_channel_credentials(ca)
        self._channels: dict[int, grpc.Channel] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Connection(host={self.host!r}, base_port={self.base_port})"

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every channel."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    @cached_property
    def data(self) -> DataServiceStub:
        """Stub of the data service."""
        return DataServiceStub(self.channel(SERVICE_OFFSETS["data"]))

    @cached_property
    def training(self) -> TrainingServiceStub:
        """Stub of the training service."""
        return TrainingServiceStub(self.channel(SERVICE_OFFSETS["training"]))

    @cached_property
    def registry(self) -> RegistryServiceStub:
        """Stub of the registry service."""
        return RegistryServiceStub(self.channel(SERVICE_OFFSETS["registry"]))

    @cached_property
    def scheduler(self) -> SchedulerServiceStub:
        """Stub of the scheduler service."""
        return SchedulerServiceStub(self.channel(SERVICE_OFFSETS["scheduler"]))

    @cached_property
    def inference(self) -> InferenceServiceStub:
        """Stub of the inference service: deployments."""
        return InferenceServiceStub(self.channel(SERVICE_OFFSETS["inference"]))

    @cached_property
    def prediction(self) -> PredictionServiceStub:
        """Stub of the inference workers' typed predictions."""
        return PredictionServiceStub(self.serving_channel)

    @property
    def serving_channel(self) -> grpc.Channel:
        """Channel to the inference workers: the Open Inference Protocol, and typed predictions."""
        return self.channel(INFERENCE_GRPC_OFFSET)

    def channel(self, offset: int) -> grpc.Channel:
        """Return the channel to base port + offset, opened on first use."""
        with self._lock:
            if offset not in self._channels:
                options = [
                    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                    ("grpc.max_send_message_length", _MESSAGE_BYTES),
                    ("grpc.service_config", _RETRY),
                ]
                address = f"{self.host}:{self.base_port + offset}"
                channel = grpc.secure_channel(address, self._credentials, options=options)
                self._channels[offset] = grpc.intercept_channel(channel, _Calls(self._token, address))
            return self._channels[offset]


# Safe to repeat: reads change nothing, and every mutation carries a request_id, so a repeat gets the first answer.
_RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


class _InUse:
    """The connection that the SDK uses where none is given."""

    connection: Connection | None = None


def connect(
    host: str | None = None,
    *,
    token: str | None = None,
    ca: str | Path | None = None,
    base_port: int | None = None,
) -> Connection:
    """Connect to a platform and make it the one that the SDK uses from now on.

    Args:
        host: host name or address, optionally `host:base_port`; by default LEPTON_HOST, else this machine's platform.
        token: bearer token; by default LEPTON_TOKEN, LEPTON_TOKEN_FILE, else the local platform's.
        ca: path of the CA's PEM file; by default LEPTON_CA, else the local platform's.
        base_port: the platform's first port, by default 8000 or the local platform's.

    Raises:
        PlatformNotRunning: no host was given and no platform runs here.
        FileNotFoundError: the CA or token file does not exist.
    """
    _InUse.connection = _find(host, token, ca, base_port)
    return _InUse.connection


def current() -> Connection:
    """Return the connection in use, connecting to the default platform on first use."""
    return _InUse.connection or connect()


def _find(host: str | None, token: str | None, ca: str | Path | None, base_port: int | None) -> Connection:
    home = Home.find()
    host = host or os.environ.get("LEPTON_HOST")
    state = _local_state(home)
    if host is None:
        if state is None:
            raise errors.PlatformNotRunning(_HOW_TO_START, reason="PLATFORM_NOT_RUNNING")
        host = "127.0.0.1"
        base_port = base_port or state
    elif ":" in host:
        host, _, port = host.rpartition(":")
        base_port = base_port or int(port)
    authority = Path(ca or os.environ.get("LEPTON_CA") or home.ca)
    return Connection(host, token or _token(home), authority.read_bytes(), base_port or DEFAULT_BASE_PORT)


def _local_state(home: Home) -> int | None:
    """Return the local platform's base port, or None where none was started."""
    try:
        return int(json.loads(home.state.read_text())["plan"]["base_port"])
    except (OSError, ValueError, KeyError):
        return None


def _token(home: Home) -> str:
    if token := os.environ.get("LEPTON_TOKEN"):
        return token
    return Path(os.environ.get("LEPTON_TOKEN_FILE") or home.token).read_text().strip()


class _Details(grpc.ClientCallDetails):
    """Call details with our metadata and deadline."""

    def __init__(self, details: grpc.ClientCallDetails, timeout: float | None, metadata: list[tuple[str, Any]]) -> None:
        self.method = details.method
        self.timeout = timeout
        self.metadata = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


class _Calls(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds token, trace and deadline to each call, and turns its failure into one of `lepton.errors`."""

    def __init__(self, token: str, address: str) -> None:
        self._token = token
        self._address = address

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return self._answer(continuation(self._details(details, DEFAULT_TIMEOUT_SECONDS), request))

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return self._answer(continuation(self._details(details, None), requests))

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return self._answers(continuation(self._details(details, None), request))

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        return self._answers(continuation(self._details(details, None), requests))

    def _details(self, details: Any, timeout: float | None) -> _Details:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        if parent := tracing.traceparent():
            metadata.append(("traceparent", parent))
        return _Details(details, details.timeout if details.timeout is not None else timeout, metadata)

    def _answer(self, call: Any) -> Any:
        # The interceptor's answer must be a call: its error, if any, is raised here in our own words.
        error = call.exception()
        if error is not None:
            raise self._translated(error) from None
        return call

    def _answers(self, call: Any) -> Iterator[Any]:
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    def _translated(self, error: Exception) -> errors.LeptonError:
        if not isinstance(error, grpc.RpcError):
            return errors.Internal(str(error))
        translated = errors.from_rpc_error(error)
        if isinstance(translated, errors.Unavailable) and not translated.metadata and "connect" in translated.message:
            return errors.PlatformNotRunning(
                f"nothing answers at {self._address}: is the platform up? (`lepton status`; `lepton up` starts it)",
                reason="PLATFORM_NOT_RUNNING",
            )
        return translated
