"""The REST API's ASGI app: routes, who may call, deadlines, errors; the gRPC servicer's own methods do the rest."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from servicekit import telemetry
from servicekit.auth import set_identity
from servicekit.errors import Cancelled, DeadlineExceeded, LeptonError, NotFound, ResourceExhausted, Unavailable
from servicekit.rpc import Guard, check_answer, set_deadline, statuses
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.rest.bodies import Receive, packed, read_body
from services.inference.rest.codec import build_reply, fill_load_parameters, load_json, parse_request
from services.inference.serving.codec import STICKY_METADATA
from services.inference.serving.predictions import Predictions
from services.inference.serving.servicer import OpenInferenceServicer

_log = structlog.get_logger(__name__)
_tracer = telemetry.tracer(__name__)

_Result = TypeVar("_Result")
_SERVICE = "/inference.GRPCInferenceService/"
_HEADER_LENGTH = "inference-header-content-length"
_LENGTH = re.compile(r"[0-9]{1,15}")
_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(frozen=True)
class Asked:
    """One request.

    Args:
        path: the parts of its path, by name.
        headers: by lower-case name.
        body: unpacked.
    """

    path: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def model(self) -> str:
        """The model of its path."""
        return self.path.get("model") or ""

    @property
    def version(self) -> str:
        """The version of its path; empty for none."""
        return self.path.get("version") or ""


@dataclass(frozen=True)
class Answered:
    """One answer.

    Args:
        body: its bytes, not packed.
        status: of HTTP.
        headers: beside its length and type.
        content_type: of the body.
    """

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True)
class Route:
    """One route.

    Args:
        verb: of HTTP.
        template: for metrics and spans.
        pattern: of the path.
        method: of gRPC, whose permission it asks for.
        answer: does it.
    """

    verb: str
    template: str
    pattern: re.Pattern[str]
    method: str
    answer: Callable[[Asked], Awaitable[Answered]]


class _Unmarked:
    """What the servicer asks of a call's context: nobody passes requests on over REST."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return nothing."""
        return ()

    def peer_identities(self) -> None:
        """Return nobody."""


_CONTEXT: Any = _Unmarked()
Send = Callable[[Any], Awaitable[None]]


class RestApp:
    """Serves REST.

    Args:
        servicer: answers what is no prediction.
        predictions: answers predictions.
        guard: who may call.
        most_bytes: of a body, in and out.
        default_seconds: that a request may take.
    """

    def __init__(
        self,
        servicer: OpenInferenceServicer,
        predictions: Predictions,
        guard: Guard,
        *,
        most_bytes: int = 64 << 20,
        default_seconds: float = 60.0,
    ) -> None:
        self._servicer = servicer
        self._predictions = predictions
        self._guard = guard
        self._most_bytes = most_bytes
        self._default_seconds = default_seconds
        self._routes = self._make_routes()

    async def __call__(
        self, scope: Mapping[str, Any], receive: Receive, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        started = time.monotonic()
        route, path = self._find(scope["method"], scope["path"])
        label = route.template if route is not None else "unknown"
        with _tracer.start_as_current_span(
            label, context=telemetry.extract(headers), kind=trace.SpanKind.SERVER, record_exception=False
        ) as span:
            try:
                answered = await self._serve(scope, route, path, headers, receive)
                code = "OK"
            except Exception as error:
                known = statuses.known_error(error)
                if known is not error:
                    _log.error("call failed unexpectedly", method=label, exc_info=error)
                span.set_status(Status(StatusCode.ERROR, known.reason))
                answered, code = to_answer(known), known.status
        # Who hung up is told nothing: the server drops what is sent after that.
        await _send(answered, headers, send, has_body=scope["method"] != "HEAD")
        telemetry.count_call(label, code, time.monotonic() - started)

    async def _serve(
        self,
        scope: Mapping[str, Any],
        route: Route | None,
        path: Mapping[str, str],
        headers: Mapping[str, str],
        receive: Receive,
    ) -> Answered:
        if route is None:
            raise NotFound(f"there is no {scope['method']} {scope['path'][:200]}", reason="NO_ROUTE")
        if route.method:
            set_identity(self._guard.admit(_SERVICE + route.method, headers, None))
        encoding = headers.get("content-encoding", "").strip().lower()
        body = await _within(self._default_seconds, read_body(receive, encoding, self._most_bytes))
        asked = Asked(path, headers, body)
        return await _while_waited_for(route.answer(asked), receive, self._default_seconds)

    def _find(self, verb: str, path: str) -> tuple[Route | None, Mapping[str, str]]:
        # The same answer without its body: probes of balancers ask so.
        wanted = "GET" if verb == "HEAD" else verb
        for route in self._routes:
            found = route.pattern.fullmatch(path) if route.verb == wanted else None
            if found is not None:
                return route, found.groupdict()
        return None, {}

    def _make_routes(self) -> tuple[Route, ...]:
        model = "/v2/models/{model}"
        return tuple(
            Route(verb, f"{verb} {template}", re.compile(pattern), method, answer)
            for verb, template, pattern, method, answer in (
                ("POST", f"{model}/infer", f"{_MODEL}/infer", "ModelInfer", self._infer),
                ("GET", "/v2/health/live", "/v2/health/live", "", self._live),
                ("GET", "/v2/health/ready", "/v2/health/ready", "", self._ready),
                ("GET", "/v2", "/v2/?", "ServerMetadata", self._server),
                ("GET", "/v2/models/stats", "/v2/models/stats", "ModelStatistics", self._statistics),
                ("GET", model, _MODEL, "ModelMetadata", self._metadata),
                ("GET", f"{model}/ready", f"{_MODEL}/ready", "ModelReady", self._model_ready),
                ("GET", f"{model}/config", f"{_MODEL}/config", "ModelConfig", self._config),
                ("GET", f"{model}/stats", f"{_MODEL}/stats", "ModelStatistics", self._statistics),
                ("POST", "/v2/repository/index", "/v2/repository/index", "RepositoryIndex", self._index),
                (
                    "POST",
                    "/v2/repository/models/{model}/load",
                    "/v2/repository/models/(?P<model>[^/]+)/load",
                    "RepositoryModelLoad",
                    self._load,
                ),
                (
                    "POST",
                    "/v2/repository/models/{model}/unload",
                    "/v2/repository/models/(?P<model>[^/]+)/unload",
                    "RepositoryModelUnload",
                    self._unload,
                ),
            )
        )

    async def _infer(self, asked: Asked) -> Answered:
        length = asked.headers.get(_HEADER_LENGTH)
        header_length = int(length) if length is not None and _LENGTH.fullmatch(length) else None
        if length is not None and header_length is None:
            header_length = -1
        request, binary = parse_request(asked.body, header_length, asked.model, asked.version)
        set_deadline(self._default_seconds)
        sticky_key = asked.headers.get(STICKY_METADATA, "")
        answer = await self._predictions.infer(request, sticky_key=sticky_key, names_unknown=True)
        body, json_length = build_reply(answer.reply, binary)
        check_answer(len(body), self._most_bytes)
        if json_length is None:
            return Answered(body, headers=answer.metadata)
        headers = (*answer.metadata, (_HEADER_LENGTH, str(json_length)))
        return Answered(body, headers=headers, content_type="application/octet-stream")

    async def _live(self, asked: Asked) -> Answered:
        return _json({"live": True})

    async def _ready(self, asked: Asked) -> Answered:
        found = await self._servicer.ServerReady(pb.ServerReadyRequest(), _CONTEXT)
        return _json({"ready": found.ready}, 200 if found.ready else 503)

    async def _server(self, asked: Asked) -> Answered:
        return _message(await self._servicer.ServerMetadata(pb.ServerMetadataRequest(), _CONTEXT))

    async def _metadata(self, asked: Asked) -> Answered:
        request = pb.ModelMetadataRequest(name=asked.model, version=asked.version)
        return _message(await self._servicer.ModelMetadata(request, _CONTEXT))

    async def _model_ready(self, asked: Asked) -> Answered:
        request = pb.ModelReadyRequest(name=asked.model, version=asked.version)
        found = await self._servicer.ModelReady(request, _CONTEXT)
        return _json({"name": asked.model, "ready": found.ready}, 200 if found.ready else 503)

    async def _config(self, asked: Asked) -> Answered:
        request = pb.ModelConfigRequest(name=asked.model, version=asked.version)
        return _message((await self._servicer.ModelConfig(request, _CONTEXT)).config)

    async def _statistics(self, asked: Asked) -> Answered:
        request = pb.ModelStatisticsRequest(name=asked.model, version=asked.version)
        return _message(await self._servicer.ModelStatistics(request, _CONTEXT))

    async def _index(self, asked: Asked) -> Answered:
        wanted = load_json(asked.body) if asked.body else {}
        request = pb.RepositoryIndexRequest(ready=bool(wanted.get("ready", False)))
        found = await self._servicer.RepositoryIndex(request, _CONTEXT)
        return _json([_dictionary(row) for row in found.models])

    async def _load(self, asked: Asked) -> Answered:
        request = pb.RepositoryModelLoadRequest(model_name=asked.model)
        if asked.body:
            fill_load_parameters(request, load_json(asked.body))
        await self._servicer.RepositoryModelLoad(request, _CONTEXT)
        return Answered()

    async def _unload(self, asked: Asked) -> Answered:
        await self._servicer.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=asked.model), _CONTEXT)
        return Answered()


async def _while_waited_for(answering: Any, receive: Receive, seconds: float) -> Answered:
    """Return an answer; end the work on it when its caller goes away or its time is over."""
    work: asyncio.Future[Answered] = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await _within(seconds, asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED))
        if not work.done():
            raise Cancelled("the caller went away")
        return await work
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _within(seconds: float, doing: Awaitable[_Result]) -> _Result:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await doing
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded(f"the call took longer than {seconds:g} s") from None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _send(answered: Answered, asked: Mapping[str, str], send: Send, *, has_body: bool) -> None:
    body, encoding = packed(answered.body, asked.get("accept-encoding", ""))
    headers = [("content-type", answered.content_type), ("content-length", str(len(body))), *answered.headers]
    if encoding:
        headers.append(("content-encoding", encoding))
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": answered.status, "headers": raw})
    await send({"type": "http.response.body", "body": body if has_body else b""})


def to_answer(error: LeptonError) -> Answered:
    """Return the answer that carries an error: its status, reason and, where one may help, when to retry."""
    headers = [("lepton-reason", error.reason)]
    status = _STATUSES.get(error.status, 500)
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_seconds is not None:
        headers.append(("retry-after", str(max(round(error.retry_seconds), 1))))
    # A deployment that no worker has room for is TOO_LARGE, too: that is not the caller's body.
    if isinstance(error, ResourceExhausted) and error.reason in ("TOO_LARGE", "ANSWER_TOO_LARGE"):
        status = 413
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return _json({"error": statuses.status_message(error)}, status, tuple(headers))


def _json(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answered:
    return Answered(json.dumps(document).encode(), status, headers)


def _message(message: Any) -> Answered:
    return _json(_dictionary(message))


def _dictionary(message: Any) -> dict[str, Any]:
    """Return a message as JSON has it: 64-bit integers as numbers, which protobuf's own mapping writes as texts."""
    found: dict[str, Any] = _with_numbers(
        message, MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )
    return found


def _with_numbers(message: Any, document: dict[str, Any]) -> dict[str, Any]:
    for descriptor in message.DESCRIPTOR.fields:
        name = descriptor.name
        if name not in document or (descriptor.message_type and descriptor.message_type.GetOptions().map_entry):
            continue
        value = getattr(message, name)
        is_many = isinstance(document[name], list)
        if descriptor.message_type:
            parts = zip(value, document[name], strict=True) if is_many else [(value, document[name])]
            for part, told in parts:
                _with_numbers(part, told)
        elif descriptor.cpp_type in (descriptor.CPPTYPE_INT64, descriptor.CPPTYPE_UINT64):
            document[name] = list(value) if is_many else value
    return document
