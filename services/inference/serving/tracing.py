"""Spans of a prediction's stages; none where nobody records them."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context

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


def record_batch(batch: "Batch") -> None:
    """Tell of a batch that has run: its own span, linked to its requests', and theirs of each stage, linked to it."""
    traced = [work for work in batch.works if work.span is not None]
    if not traced:
        return
    form = batch.works[0].form
    attributes: dict[str, str | int] = {
        "lepton.deployment": form.model.deployment,
        "lepton.version": form.model.number,
        "lepton.provider": form.model.provider,
        "lepton.batch.requests": len(batch.works),
        "lepton.batch.rows": sum(work.rows for work in batch.works),
    }
    # Batches are timed by a clock that never jumps, spans by the one on the wall.
    offset = time.time() - time.monotonic()
    began = batch.began + offset
    assembled = began + batch.times.input_seconds
    ran = assembled + batch.times.infer_seconds
    links = [trace.Link(work.span.get_span_context()) for work in traced if work.span is not None]
    whole = _tracer.start_span(
        "inference.batch", context=Context(), links=links, attributes=attributes, start_time=_nanoseconds(began)
    )
    whole.end(_nanoseconds(ran))
    to_whole = [trace.Link(whole.get_span_context())]
    for work in traced:
        assert work.span is not None
        parent = trace.set_span_in_context(work.span)
        for name, start, end in (
            ("inference.queue", work.started + offset, began),
            ("inference.preprocess", began, assembled),
            ("onnxruntime.run", assembled, ran),
        ):
            stage = _tracer.start_span(
                name, context=parent, links=to_whole, attributes=attributes, start_time=_nanoseconds(start)
            )
            stage.end(_nanoseconds(end))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
