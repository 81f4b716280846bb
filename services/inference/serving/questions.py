"""A prediction that is asked for, checked and ready for the batcher: the same for whichever transport brought it."""

import time
from dataclasses import dataclass

from servicekit.errors import LeptonError
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batches import Form, Payload, find_form, to_payload
from services.inference.serving.codec import parse_inputs, requested_outputs, sticky_key_of
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.table import Entry, ServingTable


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked.

    Args:
        form: what it may share a batch with.
        rows: its batch.
        inputs: by name, checked.
        shared: its deployment, where other versions answer some of these questions, too; None else.
    """

    form: Form
    rows: int
    inputs: dict[str, Array]
    shared: Entry | None = None

    @property
    def model(self) -> LoadedModel:
        """Who answers."""
        return self.form.model

    def payloads(self) -> list[Payload]:
        """Return its inputs as batches take them."""
        return [to_payload(self.inputs.get(name), spec) for name, spec in self.model.inputs.items()]


def route_request(table: ServingTable, workspace: str, request: pb.ModelInferRequest, sticky_key: str) -> LoadedModel:
    """Return who answers a request.

    Args:
        table: who is served.
        workspace: the caller's.
        request: it.
        sticky_key: of the call's metadata; the request's own parameter goes before it.

    Raises:
        NotFound: there is no such model or version here.
        Unavailable: it is placed here and does not serve yet.
        InvalidArgument: the request's key is no text.
    """
    key = sticky_key_of(request) or sticky_key
    return table.route(workspace, request.model_name, request.model_version, key)


def read_request(
    table: ServingTable, workspace: str, request: pb.ModelInferRequest, model: LoadedModel, started: float
) -> Question:
    """Return what a request asks; one that asks wrongly is counted.

    Args:
        table: who is served.
        workspace: the caller's.
        request: it.
        model: who answers.
        started: when it came (monotonic).

    Raises:
        InvalidArgument, Unimplemented: it is nothing that the model takes.
    """
    try:
        inputs = parse_inputs(request, model)
        form, rows = find_form(model, tuple(requested_outputs(request, model)), inputs)
    except LeptonError as error:
        model.statistics.failed(error, time.monotonic() - started)
        raise
    entry = None if request.model_version else table.get(workspace, request.model_name)
    return Question(form, rows, inputs, entry if entry is not None and entry.is_shared else None)
