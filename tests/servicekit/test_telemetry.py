"""One trace from caller to callee to log line, metrics, and JSON alone on stdout: of a process of its own."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from servicekit.telemetry import current_traceparent, linked_context
from tests.support.credentials import environment_of

Span = trace_pb2.Span
METHOD = "lepton.v1.TrainingService/GetJob"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Receives spans by OTLP."""

    spans: list[Span] = field(default_factory=list)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass
class MetricsCollector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Receives metrics by OTLP: the latest of each name."""

    metrics: dict[str, metrics_pb2.Metric] = field(default_factory=dict)

    async def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: object
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}
        return metrics_service_pb2.ExportMetricsServiceResponse()


@dataclass(frozen=True)
class Outcome:
    """What a traced process left: its log lines, its metrics as text, and the spans and metrics that it sent."""

    lines: list[dict[str, str]]
    metrics: str
    spans: list[Span]
    sent: dict[str, metrics_pb2.Metric]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def outcome_of(credentials: Path, collector: Collector, counted: MetricsCollector, **environment: str) -> Outcome:
    settings = {f"LEPTON_{name.upper()}": value for name, value in environment_of(credentials, "data").items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.servicekit.traced_process", str(credentials)),
        env=os.environ | settings | {"LEPTON_METRICS_PORT": str(free_port())} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return Outcome(
        [json.loads(line) for line in output.splitlines()], errors.decode(), collector.spans, counted.metrics
    )


@pytest.fixture
async def outcome(platform_files: Path) -> AsyncIterator[Outcome]:
    """A process that sends its spans to a collector."""
    collector, counted = Collector(), MetricsCollector()
    server = grpc.aio.server()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(counted, server)  # type: ignore[no-untyped-call]
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        yield await outcome_of(platform_files, collector, counted, **endpoint)
    finally:
        await server.stop(None)


def line_of(outcome: Outcome, event: str) -> dict[str, str]:
    return next(line for line in outcome.lines if line["event"] == event)


async def test_one_trace_runs_from_caller_to_callee_to_log(outcome: Outcome) -> None:
    by_id = {span.span_id: span for span in outcome.spans}
    served = [span for span in outcome.spans if span.name == METHOD and span.kind == Span.SPAN_KIND_SERVER]
    assert len(served) == 2
    for server_span in served:
        client_span = by_id[server_span.parent_span_id]
        assert (client_span.name, client_span.kind) == (METHOD, Span.SPAN_KIND_CLIENT)
        assert by_id[client_span.parent_span_id].name == "fit"
    assert len({span.trace_id for span in outcome.spans}) == 1
    trace_id = outcome.spans[0].trace_id.hex()
    assert {line_of(outcome, event)["trace_id"] for event in ("called", "call failed")} == {trace_id}
    failed = next(span for span in served if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR)
    assert line_of(outcome, "call failed")["span_id"] == failed.span_id.hex()


async def test_stdout_holds_json_alone_that_names_the_service(outcome: Outcome) -> None:
    assert {line["service"] for line in outcome.lines} == {"traced"}
    warning = line_of(outcome, "a library warns")
    assert (warning["level"], warning["logger"]) == ("warning", "some.library")


async def test_metrics_count_calls_by_how_they_ended(outcome: Outcome) -> None:
    for code in ("OK", "NOT_FOUND"):
        assert f'lepton_rpc_calls_total{{code="{code}",method="/{METHOD}"}} 1.0' in outcome.metrics
    assert f'lepton_rpc_seconds_count{{method="/{METHOD}"}} 2.0' in outcome.metrics


async def test_what_the_metrics_page_shows_is_sent_too(outcome: Outcome) -> None:
    calls = {
        tuple(sorted((item.key, item.value.string_value) for item in point.attributes)): point.as_double
        for point in outcome.sent["lepton_rpc_calls"].sum.data_points
    }
    assert calls[("code", "OK"), ("method", f"/{METHOD}")] == 1.0
    assert outcome.sent["lepton_rpc_calls"].sum.is_monotonic
    (seconds,) = outcome.sent["lepton_rpc_seconds"].histogram.data_points
    assert (seconds.count, sum(seconds.bucket_counts)) == (2, 2)
    assert len(seconds.bucket_counts) == len(seconds.explicit_bounds) + 1
    assert 0 < seconds.sum < 60


async def test_without_a_collector_logs_still_share_the_trace(platform_files: Path) -> None:
    outcome = await outcome_of(platform_files, Collector(), MetricsCollector())
    assert line_of(outcome, "called")["trace_id"] == line_of(outcome, "call failed")["trace_id"]
    assert outcome.spans == []


def test_stored_traceparent_is_joined_later() -> None:
    parent = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=True))
    with trace.use_span(parent):
        stored = current_traceparent()
    joined = trace.get_current_span(linked_context(stored)).get_span_context()
    assert (joined.trace_id, joined.span_id) == (0xABC, 0xDEF)


def test_empty_traceparent_joins_nothing() -> None:
    assert current_traceparent() == ""
    assert not trace.get_current_span(linked_context("")).get_span_context().is_valid
