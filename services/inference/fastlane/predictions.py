"""ModelInfer on the driving thread: admission, the request's bytes to a batch, the batch's answers to bytes."""

import asyncio
import threading
import time
import uuid
from collections.abc import Mapping
from itertools import count
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, use_span

from servicekit import telemetry
from servicekit.auth import Identity
from servicekit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    LeptonError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from servicekit.rpc import Guard, statuses
from services.inference.fastlane import core
from services.inference.fastlane.heads import Head, Heads
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batcher import Batcher
from services.inference.serving.batches import Payload, Work, find_form, to_payload
from services.inference.serving.codec import STICKY_METADATA, parse_inputs, requested_outputs, sticky_key_of
from services.inference.serving.forwarding import Forwarder, is_marked
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.replies import build_reply
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import Entry, ServingTable
from services.inference.serving.tracing import call_span

_log = structlog.get_logger(__name__)

METHOD = "/inference.GRPCInferenceService/ModelInfer"
# An answer of the guard is good for this long: so much later may a token's end show.
_ADMITTED_SECONDS = 1.0
_MOST_ADMITTED = 4096
# Requests that are read before they are run, where the queue never empties.
_MOST_UNFLUSHED = 256
# Replies from this size on are counted until the transport has taken them.
_LARGE_BYTES = 1 << 16
_UNSENT_BYTES = 256 << 20
_RETRY_SECONDS = 1.0


class FastPredictions:
    """Answers ModelInfer for the fast lane's server.

    Args:
        table: who is served.
        batcher: runs them.
        guard: who may call.
        forwarder: passes on what stands elsewhere; None for a worker alone.
        shadow: compares answers with other versions'; None for nobody.
        typed_mirrors: whether a typed request gets a typed reply.
        most_bytes: of a reply.
        default_seconds: the deadline of a call that brings none.
    """

    def __init__(
        self,
        table: ServingTable,
        batcher: Batcher,
        guard: Guard,
        forwarder: Forwarder | None = None,
        shadow: Shadow | None = None,
        *,
        typed_mirrors: bool = True,
        most_bytes: int = 64 << 20,
        default_seconds: float = 60.0,
    ) -> None:
        self.table = table
        self.batcher = batcher
        self.heads = Heads()
        self.typed_mirrors = typed_mirrors
        self.most_bytes = most_bytes
        self.default_seconds = default_seconds
        self.forwarder = forwarder
        self.shadow = shadow
        self._guard = guard
        self._admitted: dict[str, tuple[float, Identity]] = {}
        self._unflushed: list[_Call] = []
        self._most_unsent_bytes = max(8 * most_bytes, _UNSENT_BYTES)
        self._unsent_bytes = 0
        self._unsent_lock = threading.Lock()
        # Unique over restarts and processes by its beginning, within a process by its count.
        self._id_start = uuid.uuid4().hex[:20]
        self._ids = count()
        self._is_recording = telemetry.records_spans()
        self.loop = asyncio.get_running_loop()

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for `flush`."""
        return bool(self._unflushed)

    def begin(self, event: Any) -> None:
        """Take a call: check who makes it, and ask for its request."""
        call = _Call(self, event)
        try:
            if self._unsent_bytes > self._most_unsent_bytes:
                raise ResourceExhausted(
                    f"{self._unsent_bytes} bytes of replies wait for their callers to read",
                    reason="REPLIES_UNREAD",
                    retry_seconds=_RETRY_SECONDS,
                )
            call.identity = self._admit(event, call.started)
        except LeptonError as error:
            call.refuse(error)
            return
        if self._is_recording:
            call.span = call_span(METHOD, _metadata(event))
        event.call.start_server_batch(core.receive_message(), call.received)

    def flush(self) -> None:
        """Run what was read, and listen whether the callers of what runs on are still there."""
        unflushed, self._unflushed = self._unflushed, []
        self.batcher.flush()
        for call in unflushed:
            if not call.is_answered:
                call.watch()

    def submit(self, call: "_Call", work: Work) -> None:
        """Queue a request's work.

        Raises:
            ResourceExhausted: too much waits already.
        """
        self.batcher.submit(work)
        self._unflushed.append(call)
        if len(self._unflushed) >= _MOST_UNFLUSHED:
            self.flush()

    def trailers(self, model: LoadedModel) -> tuple[tuple[str, str], ...]:
        """Return what goes beside an answer."""
        return (
            ("lepton-prediction-id", f"{self._id_start}{next(self._ids):012x}"),
            ("lepton-provider", model.provider),
        )

    def send_large(self, call: Any, operations: Any, size_bytes: int) -> None:
        """Send a large reply; it counts until the transport has taken it, for its caller may never read."""
        with self._unsent_lock:
            self._unsent_bytes += size_bytes

        def sent(event: Any) -> None:
            with self._unsent_lock:
                self._unsent_bytes -= size_bytes

        call.start_server_batch(operations, sent)

    def _admit(self, event: Any, now: float) -> Identity:
        authorization = ""
        for item in event.invocation_metadata:
            if item.key == "authorization":
                authorization = item.value
            elif item.key == "lepton-workspace":
                return self._guard.admit(METHOD, _metadata(event), core.peer_identities(event.call))
        admitted = self._admitted.get(authorization)
        if admitted is not None and now < admitted[0]:
            return admitted[1]
        if not authorization:
            return self._guard.admit(METHOD, {}, core.peer_identities(event.call))
        identity = self._guard.admit(METHOD, {"authorization": authorization}, None)
        if len(self._admitted) >= _MOST_ADMITTED:
            self._admitted.clear()
        self._admitted[authorization] = (now + _ADMITTED_SECONDS, identity)
        return identity


class _Call:
    """One ModelInfer under way.

    Args:
        owner: what it belongs to.
        event: the core's.
    """

    __slots__ = (
        "_brings_deadline", "_core_call", "_deadline", "_event", "_head", "_id", "_model", "_owner", "_request",
        "_shared", "identity", "is_answered", "span", "started", "work",
    )  # fmt: skip

    def __init__(self, owner: FastPredictions, event: Any) -> None:
        self.started = time.monotonic()
        self.identity: Identity | None = None
        self.is_answered = False
        self.span: Span | None = None
        self.work: Work | None = None
        self._owner = owner
        self._core_call = event.call
        self._event = event
        remaining = core.remaining_seconds(event, time.time())
        self._brings_deadline = remaining is not None
        self._deadline = self.started + (owner.default_seconds if remaining is None else remaining)
        self._head: Head | None = None
        self._id = b""
        self._request: pb.ModelInferRequest | None = None
        self._model: LoadedModel | None = None
        # Of a request that other versions may answer, too: who they are, and what it asks.
        self._shared: tuple[Entry, dict[str, Array]] | None = None

    def received(self, event: Any) -> None:
        """Take the request's bytes."""
        data = event.batch_operations[0].message() if event.success else None
        if data is None:
            # The caller is gone, or sent more than it may: the core has told it.
            self._end("CANCELLED")
            return
        try:
            work = self._known(data) or self._parsed(data)
            work.started, work.deadline, work.span = self.started, self._deadline, self.span
            work.size_bytes = len(data)
            self.work = work
            self._owner.submit(self, work)
        except (NotFound, Unavailable) as error:
            self._pass_on(data, error)
        except Exception as error:
            if self._model is not None and isinstance(error, LeptonError):
                self._model.statistics.failed(error.reason, time.monotonic() - self.started)
            self.refuse(error)

    def watch(self) -> None:
        """Learn when the caller goes away, and end the call of one who would wait for ever."""
        self._core_call.start_server_batch(core.receive_close(), self._closed)
        if not self._brings_deadline:
            loop, seconds = self._owner.loop, self._deadline - time.monotonic()
            loop.call_soon_threadsafe(loop.call_later, seconds, self._expire)

    def refuse(self, error: Exception) -> None:
        """Send an error's status."""
        known = statuses.known_error(error)
        if known is not error:
            _log.error("call failed unexpectedly", method=METHOD, exc_info=error)
        code: int = statuses.status_code(known).value[0]
        self._send(
            core.status_operations(code, statuses.status_message(known), statuses.trailers(known), is_first=True)
        )
        self._end(known.status, known.reason)

    def _known(self, data: bytes) -> Work | None:
        """Return the work of a request that begins like one before."""
        assert self.identity is not None
        heads, table, workspace = self._owner.heads, self._owner.table, self.identity.workspace
        found = heads.find(workspace, data)
        if found is None:
            return None
        head, self._id, position = found
        if head.generation != table.generation:
            generation = table.generation
            entry = table.get(workspace, head.name)
            head.is_shared = not head.version and entry.is_shared
            if not head.is_shared and table.find(workspace, head.name, head.version) is not head.form.model:
                heads.forget(workspace, data, head)
                return None
            head.generation = generation
        if head.is_shared:
            return None
        payloads = head.payloads(data, position)
        if payloads is None:
            return None
        self._head, self._model = head, head.form.model
        return Work(head.form, payloads, head.rows, self._answer_known, is_checked=False)

    def _parsed(self, data: bytes) -> Work:
        """Return the work of any request.

        Raises:
            LeptonError: it is none that can be answered.
        """
        assert self.identity is not None
        request = _read(data)
        table, workspace = self._owner.table, self.identity.workspace
        generation = table.generation
        key = sticky_key_of(request) or _metadata(self._event).get(STICKY_METADATA, "")
        model = self._model = table.route(workspace, request.model_name, request.model_version, key)
        inputs = parse_inputs(request, model)
        names = requested_outputs(request, model)
        form, rows = find_form(model, tuple(names), inputs)
        if not request.model_version and (entry := table.get(workspace, request.model_name)).is_shared:
            self._shared = entry, inputs
        else:
            self._owner.heads.learn(workspace, data, request, form, rows, generation)
        if request.raw_input_contents:
            # Its tensors are in the payloads now; that they came raw still counts.
            request.raw_input_contents[:] = [b""]
        self._request = request
        payloads: list[Payload] = [to_payload(inputs[name], spec) for name, spec in model.inputs.items()]
        return Work(form, payloads, rows, self._answer_parsed)

    def _answer_known(self, work: Work) -> None:
        if self.is_answered:
            return
        if work.error is not None:
            return self._fail(work)
        assert self._head is not None
        self._reply(self._head.reply(work, self._id), work.form.model)

    def _answer_parsed(self, work: Work) -> None:
        if self.is_answered:
            return
        if work.error is not None:
            return self._fail(work)
        assert self._request is not None
        model = work.form.model
        try:
            reply = build_reply(
                self._request, model, list(work.form.outputs), work.arrays(), typed_mirrors=self._owner.typed_mirrors
            )
        except Exception as error:
            return self._fail_with(error)
        self._reply(reply.SerializeToString(), model)
        if self._shared is not None and self._owner.shadow is not None:
            entry, inputs = self._shared
            answer = dict(zip(work.form.outputs, work.arrays(), strict=True))
            self._owner.loop.call_soon_threadsafe(self._owner.shadow.offer, entry, model, inputs, answer)

    def _pass_on(self, data: bytes, why: LeptonError) -> None:
        """Have the event loop ask a worker that holds the model."""
        forwarder = self._owner.forwarder
        if forwarder is None:
            return self.refuse(why)
        self._owner.loop.call_soon_threadsafe(self._begin_forwarding, forwarder, data, why)

    def _begin_forwarding(self, forwarder: Forwarder, data: bytes, why: LeptonError) -> None:
        task = asyncio.create_task(self._forward(forwarder, data, why))

        def closed(event: Any) -> None:
            if event.batch_operations[0].cancelled():
                self._owner.loop.call_soon_threadsafe(task.cancel)

        self._core_call.start_server_batch(core.receive_close(), closed)

    async def _forward(self, forwarder: Forwarder, data: bytes, why: LeptonError) -> None:
        assert self.identity is not None
        try:
            request = _read(data)
            marked = is_marked(_metadata(self._event), core.peer_identities(self._core_call))
            with use_span(self.span or INVALID_SPAN):
                forwarded = await forwarder.unary(
                    METHOD,
                    data,
                    (request.model_name, request.model_version),
                    self.identity,
                    why,
                    seconds=max(self._deadline - time.monotonic(), 0.001),
                    is_marked=marked,
                )
        except asyncio.CancelledError:
            self._end("CANCELLED")
        except Exception as error:
            self.refuse(error)
        else:
            self._send(core.reply_operations(forwarded.reply, forwarded.metadata))
            self._end("OK")

    def _reply(self, reply: bytes, model: LoadedModel) -> None:
        if len(reply) > self._owner.most_bytes:
            return self._fail_with(
                ResourceExhausted(
                    f"the answer takes {len(reply)} bytes, more than the limit of {self._owner.most_bytes}: "
                    "ask for less",
                    reason="ANSWER_TOO_LARGE",
                )
            )
        self.is_answered = True
        operations = core.reply_operations(reply, self._owner.trailers(model))
        if len(reply) < _LARGE_BYTES:
            self._send(operations)
        else:
            self._owner.send_large(self._core_call, operations, len(reply))
        self._end("OK")

    def _fail(self, work: Work) -> None:
        assert work.error is not None
        if work.is_gone:
            self.is_answered = True
            self._end(work.error.status, work.error.reason)
        else:
            self._fail_with(work.error)

    def _fail_with(self, error: Exception) -> None:
        self.is_answered = True
        self.refuse(error)

    def _send(self, operations: Any) -> None:
        self._core_call.start_server_batch(operations, core.ignored)

    def _closed(self, event: Any) -> None:
        if event.batch_operations[0].cancelled() and self.work is not None and not self.is_answered:
            self._owner.batcher.cancel(self.work)

    def _expire(self) -> None:
        if not self.is_answered and self.work is not None:
            self._fail_with(DeadlineExceeded(f"the call took longer than {self._owner.default_seconds:g} s"))
            self._owner.batcher.cancel(self.work)

    def _end(self, code: str, reason: str = "") -> None:
        telemetry.count_call(METHOD, code, time.monotonic() - self.started)
        if self.span is not None:
            if code != "OK":
                self.span.set_status(Status(StatusCode.ERROR, reason or code))
            self.span.end()


def _read(data: bytes) -> pb.ModelInferRequest:
    try:
        return pb.ModelInferRequest.FromString(data)
    except DecodeError:
        raise InvalidArgument(
            "the request's bytes are no message of this call's type", reason="MESSAGE_UNREADABLE"
        ) from None


def _metadata(event: Any) -> Mapping[str, str]:
    return {item.key: item.value for item in event.invocation_metadata if isinstance(item.value, str)}
