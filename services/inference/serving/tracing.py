"""Spans of a prediction's stages; none where nobody records them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import trace

from servicekit import telemetry

if TYPE_CHECKING:
    from services.inference.serving.batches import Batch

_tracer = telemetry.tracer(__name__)


def call_span(method: str, metadata: Mapping[str, str]) -> trace.Span:
    """Return a begun span of a call, a child of the caller's; whoever ends the call ends it."""
    service, _, name = method.lstrip("/").partition("/")
    return _tracer.start_span(
        method.lstrip("/"),
        context=telemetry.extract(metadata),
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
    )


def batch_span(batch: "Batch") -> AbstractContextManager[object]:
    """Return a span around a batch's run, linked to the spans of its requests."""
    links = [trace.Link(work.span.get_span_context()) for work in batch.works if work.span is not None]
    if not links:
        return nullcontext()
    form = batch.works[0].form
    attributes: dict[str, str | int] = {
        "lepton.deployment": form.model.deployment,
        "lepton.version": form.model.number,
        "lepton.provider": form.model.provider,
        "lepton.batch.requests": len(batch.works),
        "lepton.batch.rows": sum(work.rows for work in batch.works),
    }
    # One request's batch is its child; one of several belongs to none of them, and is linked to all.
    context = trace.set_span_in_context(batch.works[0].span) if len(batch.works) == 1 and batch.works[0].span else None
    return _tracer.start_as_current_span("inference.batch", context=context, links=links, attributes=attributes)
