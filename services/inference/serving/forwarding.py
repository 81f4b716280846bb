"""Requests for models that stand on other workers: passed on once, marked, with the caller's token and deadline.

The workers' own reports say which worker holds which model. Where these name none, the inference service says whether
the deployment exists, and which workers serve it. The mark counts from Lepton's own processes alone, which show
certificates: a marked request is never passed on again, so that two workers that each take the other for the holder
do not play ball.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import grpc
import structlog

from lepton.v1 import scheduler_pb2
from servicekit.auth import Identity, service_name
from servicekit.errors import LeptonError, NotFound, Unavailable
from servicekit.events import Nats
from servicekit.rpc import statuses
from servicekit.telemetry import current_traceparent
from services.inference.serving.locating import Holder, Locator
from services.inference.serving.statistics import Latencies

_log = structlog.get_logger(__name__)

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MARK = "lepton-forwarded"
# A worker reports every second: four lost reports in a row are no accident.
_REPORT_LASTS_SECONDS = 5.0
_TIMEOUT_SECONDS = 60.0
_CLOSE_SECONDS = 10.0
# The transport's own words; a holder that answers has reasons of its own.
_GONE = frozenset({Unavailable.default_reason, "PEER_LOST"})
# When a caller may try again, seconds.
_RETRY_SECONDS = 1.0
_NO_ROOM_RETRY_SECONDS = 10.0
_LOADING = "DEPLOYMENT_LOADING"
_NO_VERSION = "DEPLOYMENT_VERSION_NOT_FOUND"
_PLACED_HERE = frozenset({"MODEL_LOADING", "MODEL_NOT_LOADED"})
# Longer than any number or alias.
_LONGEST_VERSION = 63
# What a table says of a model that may stand elsewhere.
_ELSEWHERE = frozenset({"MODEL_NOT_FOUND", "MODEL_LOADING", "MODEL_NOT_LOADED", "WORKER_NOT_READY"})


@dataclass(frozen=True)
class Forwarded:
    """What the holder answered.

    Args:
        reply: the message's bytes.
        metadata: its trailers, texts alone.
    """

    reply: bytes
    metadata: tuple[tuple[str, str], ...]


def is_marked(metadata: Mapping[str, str], peer_identities: Iterable[bytes] | None) -> bool:
    """Return whether a call was passed on already, by one of Lepton's own processes."""
    return MARK in metadata and service_name(peer_identities) is not None


class Directory:
    """Which workers serve which models, as they report.

    Args:
        worker: this one's id, which is left out.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._reports: dict[str, tuple[float, scheduler_pb2.WorkerReport]] = {}

    async def follow(self, nats: Nats) -> None:
        """Hear reports from now on."""
        await nats.subscribe_plain("lepton-reports.*", scheduler_pb2.WorkerReport, self.take)

    async def take(self, report: scheduler_pb2.WorkerReport) -> None:
        """Take a worker's report."""
        if report.kind == scheduler_pb2.WORKER_KIND_INFERENCE and report.worker != self._worker and report.address:
            now = time.monotonic()
            self._reports = {
                worker: heard for worker, heard in self._reports.items() if heard[0] > now - _REPORT_LASTS_SECONDS
            }
            self._reports[report.worker] = (now, report)

    def holders(self, workspace: str, deployment: str, version: str) -> list[Holder]:
        """Return who serves a deployment, the best first: of two by chance the one with less to do.

        Args:
            workspace: the caller's.
            deployment: its id.
            version: a number or an alias; empty for whatever the deployment serves.
        """
        ends = time.monotonic() - _REPORT_LASTS_SECONDS
        found = [
            Holder(report.address, report.load.in_flight)
            for heard, report in self._reports.values()
            if heard > ends and any(_serves(item, workspace, deployment, version) for item in report.replicas)
        ]
        random.shuffle(found)
        return sorted(found[:2], key=lambda holder: holder.in_flight) + found[2:]

    def replicas(self, workspace: str) -> list[scheduler_pb2.Replica]:
        """Return what other workers serve of a workspace."""
        ends = time.monotonic() - _REPORT_LASTS_SECONDS
        return [
            item
            for heard, report in self._reports.values()
            if heard > ends
            for item in report.replicas
            if item.workspace == workspace
        ]


class Forwarder:
    """Passes requests on to the workers that hold their models.

    Args:
        directory: who holds what.
        open_channel: opens a channel to a private address, showing this process's certificate.
        locator: asks the inference service; None for a worker alone, which takes reports for all there is.
    """

    def __init__(
        self,
        directory: Directory,
        open_channel: Callable[[str], grpc.aio.Channel],
        locator: Locator | None = None,
    ) -> None:
        self._directory = directory
        self._locator = locator
        self._open_channel = open_channel
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # By workspace and deployment: how long the others took.
        self.latencies: dict[tuple[str, str], Latencies] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    def replicas(self, workspace: str) -> list[scheduler_pb2.Replica]:
        """Return what other workers serve of a workspace."""
        return self._directory.replicas(workspace)

    async def unary(
        self,
        method: str,
        request: bytes,
        model: tuple[str, str],
        identity: Identity,
        why: LeptonError,
        *,
        seconds: float | None,
        is_marked: bool,
    ) -> Forwarded:
        """Return a holder's answer; a holder that is gone is passed over once.

        Args:
            method: its path.
            request: the message's bytes.
            model: deployment and version, as asked for.
            identity: the caller, whose token goes along.
            why: what this worker would answer by itself.
            seconds: that the caller still waits.
            is_marked: whether the request was passed on already.

        Raises:
            NotFound: there is no such deployment.
            Unavailable: no worker serves it yet, or the request is marked.
            LeptonError: what the holder answered.
        """
        async with contextlib.aclosing(self._holders(model, identity, why, is_marked=is_marked)) as holders:
            async for holder in holders:
                try:
                    return await self._ask(holder, method, request, model, identity, seconds)
                except Unavailable as error:
                    why = error
                    if error.reason in _GONE:
                        self._forget(holder.address)
        raise why

    def _forget(self, address: str) -> None:
        """Let go of the channel to a worker that may be gone: else it would be looked for for ever."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            # Others may wait for answers on it, so nobody waits here for its end.
            closing = asyncio.create_task(channel.close(_CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def stream(
        self,
        method: str,
        request: bytes,
        model: tuple[str, str],
        identity: Identity,
        why: LeptonError,
        *,
        seconds: float | None,
        is_marked: bool,
    ) -> AsyncGenerator[bytes, None]:
        """Yield a holder's answers; a holder that is gone before its first one is passed over once.

        Args and errors are those of `unary`.
        """
        async with contextlib.aclosing(self._holders(model, identity, why, is_marked=is_marked)) as holders:
            async for holder in holders:
                has_begun = False
                ask: Any = self._channel(holder).unary_stream(method)
                call = ask(request, timeout=seconds, metadata=_metadata(identity))
                try:
                    async for reply in call:
                        has_begun = True
                        yield reply
                    return
                except grpc.aio.AioRpcError as failure:
                    error = _error_of(failure)
                    if has_begun or not isinstance(error, Unavailable):
                        raise error from failure
                    why = error
                except asyncio.CancelledError:
                    _refuse_lost()
                    raise
                finally:
                    call.cancel()
        raise why

    async def _holders(
        self, model: tuple[str, str], identity: Identity, why: LeptonError, *, is_marked: bool
    ) -> AsyncGenerator[Holder, None]:
        """Yield the workers to ask, the best first: those that report it, then those that the inference service knows.

        Raises:
            LeptonError: no worker serves it, and why; or this worker's error does not depend on where the model is.
        """
        if why.reason not in _ELSEWHERE:
            raise why
        if is_marked:
            raise Unavailable(f"{why.message}; the request was passed on already", reason="NOT_HERE_EITHER") from why
        reported = self._directory.holders(identity.workspace, *model)[:2]
        for holder in reported:
            yield holder
        if self._locator is None:
            return
        tried = {holder.address for holder in reported}
        others = [holder for holder in await self._located(model, identity, why) if holder.address not in tried]
        for holder in others[:2]:
            yield holder

    async def _located(self, model: tuple[str, str], identity: Identity, why: LeptonError) -> tuple[Holder, ...]:
        """Return the workers that serve a deployment, by the inference service.

        Raises:
            NotFound: there is no such deployment or version.
            Unavailable: it is loading, or has no room; or the inference service does not answer.
        """
        assert self._locator is not None
        deployment, version = model
        try:
            location = await self._locator.locate(identity.workspace, deployment, version)
        except NotFound as error:
            which = f" version {version[:_LONGEST_VERSION]}" if error.reason == _NO_VERSION else ""
            message = f"Request for unknown model: '{deployment}'{which} is not found"
            raise NotFound(message, reason="MODEL_NOT_FOUND") from None
        except (LeptonError, TimeoutError) as error:
            if isinstance(why, Unavailable):
                raise why from error
            raise Unavailable(
                f"whether model '{deployment}' exists cannot be said now: the inference service does not answer",
                reason="DIRECTORY_AWAY",
                retry_seconds=_RETRY_SECONDS,
            ) from error
        if location.reason and why.reason in _PLACED_HERE:
            # This worker knows more: what it is loading, or why that failed.
            raise why
        if location.reason:
            seconds = _RETRY_SECONDS if location.reason == _LOADING else _NO_ROOM_RETRY_SECONDS
            raise Unavailable(location.message, reason=location.reason, retry_seconds=seconds)
        return location.holders

    def _channel(self, holder: Holder) -> grpc.aio.Channel:
        channel = self._channels.get(holder.address)
        if channel is None:
            channel = self._channels[holder.address] = self._open_channel(holder.address)
        return channel

    async def _ask(
        self,
        holder: Holder,
        method: str,
        request: bytes,
        model: tuple[str, str],
        identity: Identity,
        seconds: float | None,
    ) -> Forwarded:
        started = time.monotonic()
        ask: Any = self._channel(holder).unary_unary(method)
        call = ask(request, timeout=_TIMEOUT_SECONDS if seconds is None else seconds, metadata=_metadata(identity))
        try:
            reply = await call
            trailers = await call.trailing_metadata()
        except grpc.aio.AioRpcError as failure:
            raise _error_of(failure) from failure
        except asyncio.CancelledError:
            _refuse_lost()
            raise
        finally:
            call.cancel()
            latencies = self.latencies.setdefault((identity.workspace, model[0]), Latencies())
            latencies.observe(time.monotonic() - started)
        return Forwarded(reply, tuple((key, value) for key, value in trailers or () if isinstance(value, str)))


def _error_of(failure: grpc.aio.AioRpcError) -> LeptonError:
    if failure.code() is grpc.StatusCode.CANCELLED:
        # Nobody here did: so the core ends calls that it has not handed out yet when its process drains.
        return Unavailable("the worker that holds the model is ending", reason="PEER_LOST")
    return statuses.from_rpc_error(failure)


def _refuse_lost() -> None:
    """Refuse a call that ended because its channel was let go: gRPC ends it as if its own task had been cancelled.

    Raises:
        Unavailable: so it is; the task goes on, and its caller waits for an answer.
    """
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise Unavailable("the connection to the worker that holds the model was lost", reason="PEER_LOST")


def _metadata(identity: Identity) -> tuple[tuple[str, str], ...]:
    mark = [(MARK, "1")]
    if identity.token:
        mark.append(("authorization", f"Bearer {identity.token}"))
    else:
        mark.append(("lepton-workspace", identity.workspace))
    if parent := current_traceparent():
        mark.append(("traceparent", parent))
    return tuple(mark)


def _serves(replica: scheduler_pb2.Replica, workspace: str, deployment: str, version: str) -> bool:
    return (
        replica.state == scheduler_pb2.REPLICA_STATE_READY
        and (replica.workspace, replica.deployment) == (workspace, deployment)
        and (not version or version == str(replica.number) or version in replica.aliases)
    )
