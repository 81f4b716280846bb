"""One trace a user's call, whether or not the user's own process records spans."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context, trace

_TRACER = trace.get_tracer("lepton")


@contextmanager
def span(name: str) -> Iterator[None]:
    """Run a block under a span; without a recording SDK, under a fresh trace id that the services then share."""
    with _TRACER.start_as_current_span(name) as current:
        if current.get_span_context().is_valid:
            yield
            return
        fresh = trace.SpanContext(
            trace_id=random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(fresh)))
        try:
            yield
        finally:
            context.detach(token)


def traceparent() -> str:
    """Return the current W3C traceparent, or an empty string where no trace is under way."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return ""
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
