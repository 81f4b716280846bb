"""A registered version to a model that can be run: its session, and the checks that its signature asks for."""

from collections.abc import Collection
from typing import Any

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition
from servicekit.onnx_graph import unzip_maps
from servicekit.sample_tensors import SampleInput
from services.inference.adapters.registry_client import Beside
from services.inference.independence import analyse, read_model
from services.inference.serving.graph_cost import has_value_dependent_cost
from services.inference.serving.model import InputSpec, LoadedModel, OutputSpec
from services.inference.serving.session import ORT_DATATYPES, open_session
from services.inference.serving.warm_up import warm_up


def load_model(
    deployment: str,
    version: registry_pb2.Version,
    content: bytes,
    *,
    epoch: int = 0,
    threads: int = 1,
    workspace: str = "",
    optimization: str = "all",
    provider: str = "",
    captures: bool = False,
    gpu_share: float = 0.0,
    beside: Beside | None = None,
) -> LoadedModel:
    """Load a version and try it on a request. Blocks.

    Outputs that no reply can carry are left out; those that were ZipMaps are tensors.

    Args:
        deployment: whose it is.
        version: what the registry says of it.
        content: its model.onnx.
        epoch: of its placement.
        threads: that one run may use.
        workspace: whose the deployment is.
        optimization: ONNX Runtime's level of graph optimisation: all or extended.
        provider: the execution provider to prefer; empty for the usual ones.
        captures: whether runs that repeat become CUDA graphs.
        gpu_share: of a GPU's memory that it may take, as its deployment declares; 0 for what it needs.
        beside: files of weights, and an example; None for none.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load it.
    """
    beside = beside or Beside()
    unzipped = unzip_maps(content)
    session = open_session(
        unzipped.content,
        threads,
        optimization,
        provider,
        captures=captures,
        gpu_share=gpu_share,
        weights=beside.weights,
    )
    signature = version.signature
    specs = {spec.name: spec for spec in signature.inputs}
    inputs = {item.name: _input(item, specs.get(item.name), signature) for item in session.get_inputs()}
    batches = {spec.batch for spec in inputs.values()} - {None}
    outputs = {
        item.name: _output(item, unzipped.labels.get(item.name) or tuple(signature.classes), batches)
        for item in session.get_outputs()
        if item.type in ORT_DATATYPES
    }
    if not outputs:
        raise FailedPrecondition("the graph gives no tensor: replies carry nothing else", reason="LOAD_FAILED")
    model = LoadedModel(deployment, version.number, version.digest, session, inputs, outputs, epoch, workspace)
    model.model, model.target, model.text_columns = version.model, signature.target, tuple(signature.text_columns)
    # A session holds no graph that could be read: the bytes do.
    graph = read_model(unzipped.content)
    model.has_bounded_cost = not has_value_dependent_cost(graph)
    verdict = analyse(graph, tuple(outputs))
    warm_up(
        model, verdict, [_sample_input(item, specs.get(item.name)) for item in session.get_inputs()], beside.example
    )
    return model


def _sample_input(item: Any, spec: common_pb2.TensorSpec | None) -> SampleInput:
    shape = tuple(size if isinstance(size, str | int) and size and size != -1 else None for size in item.shape)
    any_rank = spec is not None and spec.any_rank
    text = next(iter(spec.categories), "") if spec is not None else ""
    return SampleInput(item.name, _datatype(item), None if any_rank else shape, text)


def _input(item: Any, spec: common_pb2.TensorSpec | None, signature: common_pb2.Signature) -> InputSpec:
    shape = _shape(item)
    batch = _batch(item, shape)
    if spec is None or not spec.kind:
        return InputSpec(item.name, _datatype(item), shape, batch)
    insists = signature.handle_unknown == "error" and spec.kind == common_pb2.COLUMN_KIND_CATEGORICAL
    # A missing value is no category, and is checked by itself.
    known = frozenset((*spec.categories, "")) if insists else None
    return InputSpec(
        item.name,
        _datatype(item),
        shape,
        batch,
        is_column=True,
        nullable=spec.nullable,
        known=known,
        is_boolean=spec.kind == common_pb2.COLUMN_KIND_BOOLEAN,
        is_temporal=spec.kind == common_pb2.COLUMN_KIND_TEMPORAL,
        is_series=spec.kind == common_pb2.COLUMN_KIND_SERIES,
    )


def _output(item: Any, classes: tuple[str, ...], batches: Collection[str | None]) -> OutputSpec:
    shape = _shape(item)
    labels = classes if classes and shape[-1:] == (len(classes),) else ()
    return OutputSpec(item.name, _datatype(item), shape, labels, _batch(item, shape) in batches)


def _batch(item: Any, shape: tuple[int, ...]) -> str | None:
    """Return what the graph calls the first dimension; None where that is fixed, or where there is none."""
    return (item.shape[0] or "") if shape[:1] == (-1,) else None


def _shape(item: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)


def _datatype(item: Any) -> str:
    # ONNX Runtime's Python interface carries no BF16 tensors, nor sequences and maps over any wire.
    if item.type not in ORT_DATATYPES:
        raise FailedPrecondition(
            f"the graph takes a {item.type} as {item.name!r}, which cannot be served", reason="LOAD_FAILED"
        )
    return ORT_DATATYPES[item.type]
