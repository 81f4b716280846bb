"""One ModelInfer on the driving thread: its bytes to a batch, the batch's answer to bytes."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import DecodeError
from opentelemetry.trace import INVALID_SPAN, Span, Status, StatusCode, use_span

from servicekit import telemetry
from servicekit.auth import Identity
from servicekit.errors import DeadlineExceeded, InvalidArgument, LeptonError, NotFound, Unavailable
from servicekit.rpc import check_answer, statuses
from services.inference.fastlane import core
from services.inference.fastlane.heads import Head
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batches import Work
from services.inference.serving.codec import STICKY_METADATA, is_raw_request, timeout_seconds
from services.inference.serving.forwarding import MODEL_INFER, Forwarder, is_marked
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.questions import read_request, route_request
from services.inference.serving.replies import build_reply
from services.inference.serving.run_errors import INPUT_REJECTED
from services.inference.serving.table import Entry

if TYPE_CHECKING:
    from services.inference.fastlane.predictions import FastPredictions

_log = structlog.get_logger(__name__)


class PredictionCall:
    """One ModelInfer under way.

    Args:
        owner: what it belongs to.
        event: the core's.
        deadline: when nobody waits for its answer any more (monotonic).
    """

    __slots__ = (
        "_brings_deadline", "_core_call", "_event", "_head", "_id", "_owner", "_request", "_shared", "_times_out",
        "deadline", "identity", "is_answered", "span", "started", "work",
    )  # fmt: skip

    def __init__(self, owner: "FastPredictions", event: Any) -> None:
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
        self.deadline = self.started + (owner.default_seconds if remaining is None else remaining)
        # Whether its deadline is earlier than the one that gRPC's core keeps.
        self._times_out = False
        self._head: Head | None = None
        self._id = b""
        self._request: pb.ModelInferRequest | None = None
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
            work.started, work.deadline, work.span = self.started, self.deadline, self.span
            work.size_bytes = len(data)
            self.work = work
            self._submit(work)
        except (NotFound, Unavailable) as error:
            self._pass_on(data, error)
        except Exception as error:
            self.refuse(error)

    def watch(self) -> None:
        """Learn when the caller goes away, and end the call of one who would wait for ever."""
        self._core_call.start_server_batch(core.receive_close(), self._closed)
        if self._times_out:
            self._owner.expire_later(self)
        if not self._brings_deadline:
            self._owner.bound(self)
            if self.is_answered:
                # Meanwhile, by another thread.
                self._owner.unbound(self)

    def expire(self) -> None:
        """End a call that took longer than its request's timeout; without a deadline, than the server's."""
        work = self.work
        if work is not None and not self.is_answered:
            self._fail_with(DeadlineExceeded(f"the call took longer than {self.deadline - self.started:g} s"))
            self._owner.batcher.cancel(work)

    def refuse(self, error: Exception) -> None:
        """Send an error's status."""
        known = statuses.known_error(error)
        if known is not error:
            _log.error("call failed unexpectedly", method=MODEL_INFER, exc_info=error)
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
        form = head.form
        if form is None:
            heads.forget(workspace, data, head)
            return None
        if head.generation != table.generation:
            generation = table.generation
            entry = table.get(workspace, head.name)
            head.is_shared = not head.version and entry.is_shared
            if not head.is_shared and table.find(workspace, head.name, head.version) is not form.model:
                heads.forget(workspace, data, head)
                return None
            head.generation = generation
        if head.is_shared:
            return None
        payloads = head.payloads(data, position)
        if payloads is None:
            return None
        if head.timeout_seconds is not None:
            self._limit(head.timeout_seconds)
        self._head = head
        return Work(form, payloads, head.rows, self._answer_known, is_checked=False)

    def _parsed(self, data: bytes) -> Work:
        """Return the work of any request.

        Raises:
            LeptonError: it is none that can be answered.
        """
        assert self.identity is not None
        request = _read(data)
        if (seconds := timeout_seconds(request)) is not None:
            self._limit(seconds)
        table, workspace = self._owner.table, self.identity.workspace
        generation = table.generation
        sticky_key = metadata_of(self._event).get(STICKY_METADATA, "")
        model = route_request(table, workspace, request, sticky_key)
        question = read_request(table, workspace, request, model, self.started)
        if question.shared is not None:
            self._shared = question.shared, question.inputs
        else:
            self._owner.heads.learn(workspace, data, request, question.form, question.rows, generation)
        payloads = question.payloads()
        if is_raw_request(request):
            # Its tensors are in the payloads now; that they came raw still counts.
            request.raw_input_contents[:] = [b""]
        self._request = request
        return Work(question.form, payloads, question.rows, self._answer_parsed)

    def _limit(self, seconds: float) -> None:
        if self.started + seconds < self.deadline:
            self.deadline = self.started + seconds
            self._times_out = True

    def _submit(self, work: Work) -> None:
        try:
            self._owner.submit(self, work)
        except LeptonError as error:
            work.form.model.statistics.failed(error, time.monotonic() - self.started)
            raise

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
            if work.error.reason == INPUT_REJECTED and self._shared is not None and self._owner.shadow is not None:
                entry, inputs = self._shared
                seconds = time.monotonic() - self.started
                self._owner.loop.call_soon_threadsafe(self._owner.shadow.blame, entry, work.form.model, inputs, seconds)
            return self._fail(work)
        assert self._request is not None
        model = work.form.model
        try:
            reply = build_reply(
                self._request, model, work.form.outputs, work.arrays(), typed_mirrors=self._owner.typed_mirrors
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
            marked = is_marked(metadata_of(self._event), core.peer_identities(self._core_call))
            with use_span(self.span or INVALID_SPAN):
                forwarded = await forwarder.unary(
                    MODEL_INFER,
                    data,
                    (request.model_name, request.model_version),
                    self.identity,
                    why,
                    seconds=max(self.deadline - time.monotonic(), 0.001),
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
        try:
            check_answer(len(reply), self._owner.most_bytes)
        except LeptonError as error:
            return self._fail_with(error)
        if not self._claim():
            return
        operations = core.reply_operations(reply, self._owner.trailers(model))
        self._core_call.start_server_batch(operations, self._owner.sent(self._core_call, len(reply)))
        self._end("OK")

    def _fail(self, work: Work) -> None:
        assert work.error is not None
        if not work.is_gone:
            self._fail_with(work.error)
        elif self._claim():
            self._end(work.error.status, work.error.reason)

    def _fail_with(self, error: Exception) -> None:
        if self._claim():
            self.refuse(error)

    def _claim(self) -> bool:
        """Return whether this thread is to answer: its deadline may pass while another puts the answer together.

        The core takes no second answer, and never says that it is done with one: what that holds would stay for ever.
        """
        # The interpreter switches threads at calls and loops: not between this look and the mark.
        if self.is_answered:
            return False
        self.is_answered = True
        return True

    def _send(self, operations: Any) -> None:
        self._core_call.start_server_batch(operations, core.ignored)

    def _closed(self, event: Any) -> None:
        work = self.work
        if event.batch_operations[0].cancelled() and work is not None and not self.is_answered:
            self._owner.batcher.cancel(work)

    def _end(self, code: str, reason: str = "") -> None:
        # It and its work hold each other: as garbage that only the collector finds they cost a sixth of the time.
        self.work = None
        if not self._brings_deadline:
            self._owner.unbound(self)
        telemetry.count_call(MODEL_INFER, code, time.monotonic() - self.started)
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


def metadata_of(event: Any) -> Mapping[str, str]:
    """Return what a call brings beside its request, texts alone."""
    return {item.key: item.value for item in event.invocation_metadata if isinstance(item.value, str)}
