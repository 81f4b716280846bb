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
from lepton.addresses import check_port, is_loopback, parse_host
from lepton.connection_errors import Origin, explain
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
        ca_source: what gave the authority, for messages: a file's path, say.
        token_source: what gave the token, for messages.

    Raises:
        InvalidArgument: host, token, authority or port are of the wrong form.
    """

    def __init__(
        self,
        host: str,
        token: str,
        ca: bytes,
        base_port: int = DEFAULT_BASE_PORT,
        *,
        ca_source: str = "the given PEM text",
        token_source: str = "the caller",  # noqa: S107
    ) -> None:
        self.host, _ = parse_host(host, "host")
        self.base_port = check_port(base_port, "base_port")
        self._token = _checked_token(token, token_source)
        self._credentials = grpc.ssl_channel_credentials(_checked_authority(ca, ca_source))
        self._sources = (ca_source, token_source)
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
                options: list[tuple[str, int | str]] = [
                    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                    ("grpc.max_send_message_length", _MESSAGE_BYTES),
                    ("grpc.service_config", _RETRY),
                ]
                if is_loopback(self.host):
                    options.append(("grpc.enable_http_proxy", 0))
                origin = Origin(self.host, self.base_port + offset, *self._sources)
                channel = grpc.secure_channel(origin.address, self._credentials, options=options)
                self._channels[offset] = grpc.intercept_channel(channel, _Calls(self._token, origin))
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
        InvalidArgument: host, port, token or CA are of the wrong form; the message names the variable or file.
        FileNotFoundError: the CA or token file does not exist.
    """
    _InUse.connection = _find(host, token, ca, base_port)
    return _InUse.connection


def current() -> Connection:
    """Return the connection in use, connecting to the default platform on first use."""
    return _InUse.connection or connect()


def _find(host: str | None, token: str | None, ca: str | Path | None, base_port: int | None) -> Connection:
    home = Home.find()
    source = "host" if host is not None else "LEPTON_HOST"
    host = host if host is not None else os.environ.get("LEPTON_HOST") or None
    state = _local_state(home)
    if host is None:
        if state is None:
            raise errors.PlatformNotRunning(_HOW_TO_START, reason="PLATFORM_NOT_RUNNING")
        host = "127.0.0.1"
        base_port = base_port or state
    else:
        host, port = parse_host(host, source)
        base_port = base_port or port
    authority = Path(ca or os.environ.get("LEPTON_CA") or home.ca)
    named = "ca" if ca else "LEPTON_CA" if os.environ.get("LEPTON_CA") else "LEPTON_HOME; set LEPTON_CA for another"
    text, token_source = (token, "the argument token") if token is not None else _token(home)
    return Connection(
        host,
        text,
        _read(authority, named),
        base_port or DEFAULT_BASE_PORT,
        ca_source=str(authority),
        token_source=token_source,
    )


def _local_state(home: Home) -> int | None:
    """Return the local platform's base port, or None where none was started."""
    try:
        return int(json.loads(home.state.read_text())["plan"]["base_port"])
    except (OSError, ValueError, KeyError):
        return None


def _token(home: Home) -> tuple[str, str]:
    """Return the token and what gave it."""
    if token := os.environ.get("LEPTON_TOKEN"):
        return token, "LEPTON_TOKEN"
    named = os.environ.get("LEPTON_TOKEN_FILE")
    path = Path(named or home.token)
    content = _read(path, "LEPTON_TOKEN_FILE" if named else "LEPTON_HOME; set LEPTON_TOKEN or LEPTON_TOKEN_FILE")
    return content.decode("utf-8", "replace"), str(path)


def _read(path: Path, named: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"no such file (named by {named})", str(path)) from None


def _checked_token(token: str, source: str) -> str:
    # Files and shell variables often end with a line end.
    stripped = token.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        what = "it is empty" if not stripped else "it holds spaces, line ends or characters beyond ASCII"
        raise errors.InvalidArgument(
            f"the token of {source} is no token: {what}; expected the one line that `lepton token create` prints",
            reason="BAD_TOKEN",
        )
    return stripped


def _checked_authority(ca: bytes, source: str) -> bytes:
    if b"-----BEGIN CERTIFICATE-----" not in ca:
        raise errors.InvalidArgument(
            f"{source} holds no certificate in PEM: expected the platform's credentials/ca.pem", reason="BAD_CA"
        )
    return ca


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

    def __init__(self, token: str, origin: Origin) -> None:
        self._token = token
        self._origin = origin

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
        return explain(errors.from_rpc_error(error), self._origin)
