"""ModelInfer for the fast lane's server: who may call, and what its calls have in common."""

import asyncio
import time
import uuid
from collections.abc import Callable
from itertools import count
from typing import Any

from servicekit import telemetry
from servicekit.auth import Identity
from servicekit.errors import LeptonError
from servicekit.rpc import Guard
from services.inference.fastlane import core
from services.inference.fastlane.heads import Heads
from services.inference.fastlane.prediction_call import PredictionCall, metadata_of
from services.inference.fastlane.unread import UnreadReplies
from services.inference.serving.batcher import Batcher
from services.inference.serving.batches import Work
from services.inference.serving.forwarding import MODEL_INFER, Forwarder
from services.inference.serving.model import LoadedModel
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import ServingTable
from services.inference.serving.tracing import call_span

# An answer of the guard is good for this long: so much later may a token's end show.
_ADMITTED_SECONDS = 1.0
_MOST_ADMITTED = 4096
# Requests that are read before they are run, where the queue never empties.
_MOST_UNFLUSHED = 256
# Replies from this size on are counted until the transport has taken them.
_LARGE_BYTES = 1 << 16
_LOOK_SECONDS = 1.0


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
        most_unread_bytes: of replies that one client leaves unread.
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
        most_unread_bytes: int = 256 << 20,
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
        self._unflushed: list[PredictionCall] = []
        # Calls that brought no deadline, the oldest first.
        self._undated: dict[PredictionCall, None] = {}
        self._is_looking = False
        self._unread = UnreadReplies(most_unread_bytes)
        # Unique over restarts and processes by its beginning, within a process by its count.
        self._id_start = uuid.uuid4().hex[:20]
        self._ids = count()
        self._is_recording = telemetry.records_spans()
        self.loop = asyncio.get_running_loop()

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait for `flush`."""
        return bool(self._unflushed)

    @property
    def is_settled(self) -> bool:
        """Whether no other thread may be about to answer."""
        return self.batcher.is_idle

    def begin(self, event: Any) -> None:
        """Take a call: check who makes it, and ask for its request."""
        call = PredictionCall(self, event)
        try:
            if self._unread.are_many:
                self._unread.check(core.peer_of(event.call))
            call.identity = self._admit(event, call.started)
        except LeptonError as error:
            call.refuse(error)
            return
        if self._is_recording:
            call.span = call_span(MODEL_INFER, metadata_of(event))
        event.call.start_server_batch(core.receive_message(), call.received)

    def flush(self) -> None:
        """Run what was read, and listen whether the callers of what runs on are still there."""
        unflushed, self._unflushed = self._unflushed, []
        self.batcher.flush()
        for call in unflushed:
            if not call.is_answered:
                call.watch()

    def submit(self, call: PredictionCall, work: Work) -> None:
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

    def bound(self, call: PredictionCall) -> None:
        """End a call at its deadline; for one that brought none, and is not answered yet."""
        self._undated[call] = None
        if not self._is_looking:
            self._is_looking = True
            self.loop.call_soon_threadsafe(self._look_for_late)

    def expire_later(self, call: PredictionCall) -> None:
        """End a call at its deadline, which gRPC's core does not know."""
        seconds = max(call.deadline - time.monotonic(), 0.0)
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, call.expire)

    def unbound(self, call: PredictionCall) -> None:
        """Forget a call that ended; what it holds is let go with it."""
        self._undated.pop(call, None)

    def sent(self, call: Any, size_bytes: int) -> Callable[[Any], None]:
        """Return what is to be told when the transport has taken a reply: its caller may never read a large one."""
        if size_bytes < _LARGE_BYTES:
            return core.ignored
        client = core.peer_of(call)
        self._unread.add(client, size_bytes)
        return lambda event: self._unread.take(client, size_bytes)

    def _look_for_late(self) -> None:
        now = time.monotonic()
        for call in list(self._undated):
            if call.deadline > now:
                break
            call.expire()
        # First this, then the look: who adds a call looks in the other order.
        self._is_looking = False
        if self._undated:
            self._is_looking = True
            self.loop.call_later(min(_LOOK_SECONDS, self.default_seconds / 4), self._look_for_late)

    def _admit(self, event: Any, now: float) -> Identity:
        authorization = ""
        for item in event.invocation_metadata:
            if item.key == "authorization":
                authorization = item.value
            elif item.key == "lepton-workspace":
                return self._guard.admit(MODEL_INFER, metadata_of(event), core.peer_identities(event.call))
        admitted = self._admitted.get(authorization)
        if admitted is not None and now < admitted[0]:
            return admitted[1]
        if not authorization:
            return self._guard.admit(MODEL_INFER, {}, core.peer_identities(event.call))
        identity = self._guard.admit(MODEL_INFER, {"authorization": authorization}, None)
        if len(self._admitted) >= _MOST_ADMITTED:
            self._admitted.clear()
        self._admitted[authorization] = (now + _ADMITTED_SECONDS, identity)
        return identity
