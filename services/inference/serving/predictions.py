"""Predictions asked for on the event loop: by gRPC's own server, by streams, over REST, as typed rows."""

import asyncio
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry import trace

from servicekit.auth import current_identity
from servicekit.errors import DeadlineExceeded, InvalidArgument, LeptonError, NotFound, ResourceExhausted, Unavailable
from servicekit.rpc import bounded_timeout
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batcher import Batcher
from services.inference.serving.batches import FOREVER, Work, find_form
from services.inference.serving.codec import timeout_seconds
from services.inference.serving.forwarding import MODEL_INFER, Forwarder
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.questions import Question, read_request, route_request
from services.inference.serving.replies import add_unknown, build_reply
from services.inference.serving.run_errors import INPUT_REJECTED
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import ServingTable


@dataclass(frozen=True)
class Answer:
    """A prediction's reply, and what goes beside it.

    Args:
        reply: the message.
        metadata: trailers, or headers over REST: the prediction's id and the execution provider.
    """

    reply: pb.ModelInferResponse
    metadata: tuple[tuple[str, str], ...]


class Predictions:
    """Answers predictions of the current identity.

    Args:
        table: who is served.
        batcher: runs them.
        forwarder: passes on what stands elsewhere; None for a worker alone.
        shadow: compares answers with other versions'; None for nobody.
        typed_mirrors: whether a typed request gets a typed reply.
    """

    def __init__(
        self,
        table: ServingTable,
        batcher: Batcher,
        forwarder: Forwarder | None = None,
        shadow: Shadow | None = None,
        *,
        typed_mirrors: bool = True,
    ) -> None:
        self._table = table
        self._batcher = batcher
        self._forwarder = forwarder
        self._shadow = shadow
        self._typed_mirrors = typed_mirrors
        self._is_flushing = False

    async def infer(
        self,
        request: pb.ModelInferRequest,
        *,
        is_marked: bool = False,
        sticky_key: str = "",
        names_unknown: bool = False,
    ) -> Answer:
        """Answer a request of the Open Inference Protocol, within its parameter `timeout` if it has one.

        Args:
            request: it.
            is_marked: whether another worker passed it on.
            sticky_key: of the call's metadata; the request's parameter lepton_sticky_key goes before it.
            names_unknown: whether the reply's parameter lepton_unknown_categories counts these, where there are some.

        Raises:
            LeptonError: as OPEN_INFERENCE's table of status codes has it.
        """
        scope = asyncio.timeout(timeout_seconds(request))
        try:
            async with scope:
                answer, question = await self._infer(request, is_marked=is_marked, sticky_key=sticky_key)
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded("the request took longer than its parameter timeout") from None
        if names_unknown and question is not None:
            add_unknown(answer.reply, question.inputs, question.model)
        return answer

    async def _infer(
        self, request: pb.ModelInferRequest, *, is_marked: bool, sticky_key: str
    ) -> tuple[Answer, Question | None]:
        started = time.monotonic()
        workspace = current_identity().workspace
        try:
            model = route_request(self._table, workspace, request, sticky_key)
        except (NotFound, Unavailable) as why:
            return await self._forward(request, why, is_marked=is_marked), None
        question = read_request(self._table, workspace, request, model, started)
        try:
            arrays = await self._answer(question)
        except InvalidArgument as error:
            if error.reason == INPUT_REJECTED and self._shadow is not None and question.shared is not None:
                self._shadow.blame(question.shared, model, question.inputs, time.monotonic() - started)
            raise
        names = question.form.outputs
        reply = build_reply(request, model, names, arrays, typed_mirrors=self._typed_mirrors)
        if self._shadow is not None and question.shared is not None:
            answer = dict(zip(names, arrays, strict=True))
            self._shadow.offer(question.shared, model, question.inputs, answer)
        metadata = (("lepton-prediction-id", uuid.uuid4().hex), ("lepton-provider", model.provider))
        return Answer(reply, metadata), question

    async def _forward(self, request: pb.ModelInferRequest, why: LeptonError, *, is_marked: bool) -> Answer:
        if self._forwarder is None:
            raise why
        forwarded = await self._forwarder.unary(
            MODEL_INFER,
            request.SerializeToString(),
            (request.model_name, request.model_version),
            current_identity(),
            why,
            seconds=bounded_timeout(None),
            is_marked=is_marked,
        )
        return Answer(pb.ModelInferResponse.FromString(forwarded.reply), forwarded.metadata)

    async def run(self, model: LoadedModel, inputs: dict[str, Array], names: Sequence[str]) -> list[Array]:
        """Run a model on checked inputs, in a batch with others; a caller that goes away leaves it.

        Args:
            model: who answers.
            inputs: by name, as parse_inputs gives them.
            names: of the outputs that are wanted.

        Raises:
            ResourceExhausted: too much waits already.
            DeadlineExceeded: the call's time was over before its turn came.
            Internal: the model failed.
        """
        return await self._answer(Question(*find_form(model, tuple(names), inputs), inputs))

    async def _answer(self, question: Question) -> list[Array]:
        answered = asyncio.get_running_loop().create_future()
        work = Work(question.form, question.payloads(), question.rows, _Waker(answered))
        work.size_bytes = sum(map(_size_bytes, question.inputs.values()))
        seconds = bounded_timeout(None)
        work.deadline = FOREVER if seconds is None else work.started + seconds
        span = trace.get_current_span()
        work.span = span if span.is_recording() else None
        try:
            self._batcher.submit(work)
        except ResourceExhausted as error:
            question.model.statistics.failed(error, time.monotonic() - work.started)
            raise
        self._flush_soon()
        try:
            await answered
        except asyncio.CancelledError:
            self._batcher.cancel(work)
            raise
        return work.arrays()

    def _flush_soon(self) -> None:
        # After all requests that this turn of the loop has read: they run together.
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        self._batcher.flush()


def _size_bytes(array: Array) -> int:
    """Return how much an input takes; of texts about as much as their characters."""
    return array.nbytes if array.dtype.kind != "O" else sum(map(len, array.reshape(-1).tolist()))


class _Waker:
    """Wakes the coroutine that waits for a request, from whichever thread ran it."""

    def __init__(self, answered: "asyncio.Future[None]") -> None:
        self._answered = answered
        self._thread = threading.get_ident()

    def __call__(self, work: Work) -> None:
        if threading.get_ident() == self._thread:
            self._settle()
        else:
            self._answered.get_loop().call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)
