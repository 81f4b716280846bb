"""One trace runs from the SDK's fit through services and NATS to the registry, one from a request to ONNX Runtime."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

import lepton
from lepton.models import LogisticRegression
from tests.support.platform import Platform, start_platform, wait_for

CREDIT = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


@dataclass(frozen=True)
class Span:
    """What a span says: who it is, whose child, what it did, in which process, and what it is linked to."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    links: tuple[str, ...]


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver."""

    spans: list[Span] = field(default_factory=list)

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    parts = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    links = tuple(link.span_id.hex() for link in span.links)
                    self.spans.append(Span(*parts, span.name, names["service.name"], links))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[Receiver, int]]:
    server = grpc.server(ThreadPoolExecutor(4))
    found = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, port
    server.stop(None)


@pytest.fixture(scope="module")
def traced(receiver: tuple[Receiver, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = start_platform(
        tmp_path_factory.mktemp("traced"),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver[1]}",
        OTEL_EXPORTER_OTLP_INSECURE="true",
        OTEL_BSP_SCHEDULE_DELAY="200",
    )
    yield running
    running.lepton("down", check=False)


def test_traces_run_through_every_hop(receiver: tuple[Receiver, int], traced: Platform) -> None:
    found, _ = receiver
    connection = traced.connect()
    credit = lepton.Dataset.import_file(CREDIT, name="traced", label="creditability", connection=connection)
    tracer = TracerProvider().get_tracer("user")
    with tracer.start_as_current_span("notebook") as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
        model = LogisticRegression(name="traced", connection=connection).fit(credit.to_pandas(), target="creditability")
    expected = {
        ("lepton-data", "lepton.v1.DataService/ImportDataset"),
        ("lepton-training", "lepton.v1.TrainingService/CreateJob"),
        ("lepton-scheduler", "handle training.job.queued"),
        ("lepton-training-child", "training.job"),
        ("lepton-training-child", "training.fit"),
        ("lepton-data", "lepton.v1.DataService/ReadDataset"),
        ("lepton-registry", "lepton.v1.RegistryService/FinalizeVersion"),
    }
    wait_for(lambda: expected <= {(item.service, item.name) for item in _of(found, trace_id)}, 120, "the fit's trace")
    spans = {item.span_id: item for item in _of(found, trace_id)}
    finalized = next(
        item for item in spans.values() if item.name.endswith("/FinalizeVersion") and "registry" in item.service
    )
    assert [item.name for item in _ancestors(finalized, spans)][-2:] == [
        "training.job",
        "lepton.v1.TrainingService/CreateJob",
    ]

    deployment = lepton.Deploy(model).save()
    deployment.wait()
    with tracer.start_as_current_span("request") as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
        deployment.predict(credit.to_pandas().head(2))
    wait_for(lambda: "onnxruntime.run" in {item.name for item in _of(found, trace_id)}, 120, "the request's trace")
    spans = {item.span_id: item for item in _of(found, trace_id)}
    run = next(item for item in spans.values() if item.name == "onnxruntime.run")
    assert run.service == "lepton-inference-worker"
    # Two of them where one worker hands the request to another that has the model.
    assert {item.name for item in _ancestors(run, spans)} == {"inference.GRPCInferenceService/ModelInfer"}
    stages = {item.name for item in spans.values() if item.parent_id == run.parent_id}
    assert stages >= {"inference.queue", "inference.preprocess", "onnxruntime.run"}
    request = next(item for item in spans.values() if item.span_id == run.parent_id)
    batch = next(item for item in found.spans if item.name == "inference.batch" and request.span_id in item.links)
    # It belongs to none of its requests: it has a trace of its own.
    assert (batch.parent_id, batch.trace_id != trace_id) == ("", True)
    assert batch.span_id in run.links
    assert trace.get_current_span() is trace.INVALID_SPAN


def _of(receiver: Receiver, trace_id: str) -> list[Span]:
    return [span for span in receiver.spans if span.trace_id == trace_id]


def _ancestors(span: Span, spans: dict[str, Span]) -> list[Span]:
    """Return a span's ancestors among those received, nearest first."""
    found = []
    while (parent := spans.get(span.parent_id)) is not None:
        found.append(parent)
        span = parent
    return found
