"""One call under way: its span, its metrics, and the status that it ends with."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from servicekit import telemetry
from servicekit.rpc import statuses

_log = structlog.get_logger(__name__)
_tracer = telemetry.tracer(__name__)

ServerContext = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Call:
    """One call under way.

    Args:
        method: its path, such as /lepton.v1.DataService/GetDataset.
        context: gRPC's own.
        span: the call's.
        metadata: what came with it, text values alone.
        code: how it ended, by gRPC's name.
    """

    method: str
    context: ServerContext
    span: trace.Span
    metadata: Mapping[str, str]
    code: str = "OK"
    started: float = field(default_factory=time.perf_counter)

    async def abort(self, error: Exception) -> None:
        """End the call with an error's status; an unexpected error is logged whole and sent as an id."""
        if isinstance(error, grpc.aio.AbortError):
            code = self.context.code()
            self.code = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
            raise error
        known = statuses.known_error(error)
        self.code = known.status
        self.span.set_status(Status(StatusCode.ERROR, known.reason))
        self.span.set_attribute("lepton.error.reason", known.reason)
        fields = {"method": self.method, "code": known.status, "reason": known.reason, **known.metadata}
        if known is error:
            message = "left out: it holds values of the request" if known.holds_values else known.message
            _log.info("call failed", error=message, **fields)
        else:
            self.span.record_exception(error)
            _log.error("call failed unexpectedly", exc_info=error, **fields)
        await self.context.abort(statuses.status_code(known), statuses.status_message(known), statuses.trailers(known))


@contextlib.asynccontextmanager
async def serving(method: str, context: ServerContext) -> AsyncIterator[Call]:
    """Run a block as a call: within its span, counted, its errors sent as statuses."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    service, _, name = method.lstrip("/").partition("/")
    with _tracer.start_as_current_span(
        method.lstrip("/"),
        context=telemetry.extract(metadata),
        kind=SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        # Most errors are answers; abort() marks the span and records what is unexpected.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        call = Call(method, context, span, metadata)
        try:
            yield call
        except asyncio.CancelledError:
            # The caller hung up, its deadline passed, or the drain's time is over; nobody is left to be told.
            call.code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
            span.set_status(Status(StatusCode.ERROR, call.code))
            raise
        except grpc.aio.InternalError as error:
            # The caller hung up while an answer was being sent: gRPC says so by this, and nobody is left to be told.
            call.code = "CANCELLED"
            span.set_status(Status(StatusCode.ERROR, call.code))
            raise asyncio.CancelledError from error
        except Exception as error:
            await call.abort(error)
        finally:
            span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[call.code].value[0])
            telemetry.count_call(method, call.code, time.perf_counter() - call.started)
