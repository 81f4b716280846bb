"""Traces, metrics and logs of a process: OTLP by the standard OTEL_* variables, Prometheus, JSON lines on stdout."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Histogram

from servicekit.metrics_page import serving_metrics
from servicekit.otlp_metrics import exporting_metrics
from servicekit.settings import ProcessSettings

_PROPAGATOR = TraceContextTextMapPropagator()

_CALLS = Counter("lepton_rpc_calls_total", "RPCs served.", ["method", "code"])
_SECONDS = Histogram(
    "lepton_rpc_seconds",
    "Time to serve an RPC, seconds.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


@contextmanager
def configure_telemetry(settings: ProcessSettings, service_name: str) -> Iterator[None]:
    """Set up logs, traces and metrics of this process; leaving flushes the spans."""
    configure_logs(service_name, settings.log_level)
    provider = _configure_traces(service_name)
    try:
        with serving_metrics(settings.host, settings.metrics_port), exporting_metrics(service_name):
            yield
    finally:
        if provider is not None:
            provider.shutdown()


def configure_logs(service_name: str, level: str = "INFO") -> None:
    """Write JSON lines with service and trace id on stdout; libraries' own warnings go the same way."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _naming(service_name),
            _add_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def tracer(name: str) -> trace.Tracer:
    """Return the tracer of a module."""
    return trace.get_tracer(name)


def current_traceparent() -> str:
    """Return the W3C traceparent of the current span, or an empty string."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def extract(carrier: Mapping[str, Any]) -> otel_context.Context:
    """Return the context that a call's or message's headers carry, to be a span's parent."""
    return _PROPAGATOR.extract({key: value for key, value in carrier.items() if isinstance(value, str)})


def linked_context(traceparent: str) -> otel_context.Context:
    """Return the context of a stored traceparent; an empty one gives an empty context."""
    return extract({"traceparent": traceparent} if traceparent else {})


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in a stored traceparent, as log lines have it; empty where it has none."""
    span = trace.get_current_span(linked_context(traceparent)).get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else ""


def count_call(method: str, code: str, seconds: float) -> None:
    """Count one served RPC."""
    calls, durations = _call_metrics(method, code)
    calls.inc()
    durations.observe(seconds)


@lru_cache(1024)
def _call_metrics(method: str, code: str) -> tuple[Counter, Histogram]:
    """Return a method's metrics: looking them up by their labels takes longer than counting."""
    return _CALLS.labels(method, code), _SECONDS.labels(method)


def records_spans() -> bool:
    """Return whether spans go anywhere."""
    return bool(_endpoint())


def _configure_traces(service_name: str) -> Any:
    if not _endpoint():
        # Spans still need ids that logs and callees share; unsampled ones record nothing, so they cost next to nothing.
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"lepton-{service_name}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def _endpoint() -> str | None:
    return os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _naming(service_name: str) -> Any:
    # Not a context variable: threads would not inherit it.
    def add_service(_: Any, __: str, event: Any) -> Any:
        event.setdefault("service", service_name)
        return event

    return add_service


def _add_trace(_: Any, __: str, event: Any) -> Any:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
        event["span_id"] = f"{span.span_id:016x}"
    return event


class _Forward(logging.Handler):
    """Sends the standard library's log records to structlog, so that stdout holds JSON alone."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )
