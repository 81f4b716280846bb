"""A registered version to a model that can be run: its session, and the checks that its signature asks for."""

from collections.abc import Collection, Mapping
from typing import Any

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition
from servicekit.onnx_graph import NotAGraph
from servicekit.onnx_sequences import Servable, to_servable
from servicekit.onnx_weights import inline_inner
from servicekit.ort_datatypes import INPUT_DATATYPES, ORT_DATATYPES
from servicekit.sample_tensors import Dimension, SampleInput
from services.inference.adapters.registry_client import ExtraFiles
from services.inference.independence import analyse, read_model
from services.inference.serving.graph_cost import has_value_dependent_cost
from services.inference.serving.model import InputSpec, LoadedModel, OutputSpec
from services.inference.serving.session import open_session
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
    extra_files: ExtraFiles | None = None,
) -> LoadedModel:
    """Load a version and try it on a request. Blocks.

    Outputs that no reply can carry are left out; ZipMaps and sequences that are served are tensors.

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
        extra_files: files of weights, and an example; None for none.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load it.
    """
    extra_files = extra_files or ExtraFiles()
    servable = _servable(content)
    # onnx is loaded with the first graph, not with the worker.
    from services.inference.serving.safe_division import guard_divisions

    # A session shows neither nodes nor whether a tensor without dimensions is a scalar or of any rank.
    graph = read_model(servable.content)
    guarded = inline_inner(guard_divisions(servable.content, graph), extra_files.weights)
    session = open_session(
        guarded, threads, optimization, provider, captures=captures, gpu_share=gpu_share, weights=extra_files.weights
    )
    model, samples = _described(deployment, version, session, graph, servable.labels)
    model.epoch, model.workspace = epoch, workspace
    model.has_bounded_cost = not has_value_dependent_cost(graph)
    warm_up(model, analyse(graph, tuple(model.outputs)), samples, extra_files.example)
    return model


def _servable(content: bytes) -> Servable:
    try:
        return to_servable(content)
    except NotAGraph as error:
        raise FailedPrecondition(f"the file is not an ONNX model: {error}", reason="LOAD_FAILED") from error


def _described(
    deployment: str, version: registry_pb2.Version, session: Any, graph: Any, labels: Mapping[str, tuple[str, ...]]
) -> tuple[LoadedModel, list[SampleInput]]:
    """Return a session as a model, with the inputs to make samples of."""
    signature = version.signature
    specs = {spec.name: spec for spec in signature.inputs}
    any_rank = {value.name for value in (*graph.graph.input, *graph.graph.output) if _is_any_rank(value)}
    inputs = {item.name: _input(item, specs.get(item.name), signature, any_rank) for item in session.get_inputs()}
    batches = {spec.batch for spec in inputs.values()} - {None}
    outputs = {
        item.name: _output(item, labels.get(item.name) or tuple(signature.classes), batches, any_rank)
        for item in session.get_outputs()
        if item.type in ORT_DATATYPES
    }
    if not outputs:
        raise FailedPrecondition("the graph gives no tensor: replies carry nothing else", reason="LOAD_FAILED")
    model = LoadedModel(deployment, version.number, version.digest, session, inputs, outputs)
    model.model, model.target, model.text_columns = version.model, signature.target, tuple(signature.text_columns)
    return model, [_sample_input(item, specs.get(item.name), any_rank) for item in session.get_inputs()]


def _is_any_rank(value: Any) -> bool:
    kind = value.type.optional_type.elem_type if value.type.HasField("optional_type") else value.type
    return kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape")


def _sample_input(item: Any, spec: common_pb2.TensorSpec | None, any_rank: Collection[str]) -> SampleInput:
    shape = tuple(_dimension(size) for size in item.shape)
    text = next(iter(spec.categories), "") if spec is not None else ""
    return SampleInput(item.name, _datatype(item), None if item.name in any_rank else shape, text)


def _dimension(size: Any) -> Dimension:
    if isinstance(size, int):
        return size if size >= 0 else None
    return size or None


def _input(
    item: Any, spec: common_pb2.TensorSpec | None, signature: common_pb2.Signature, any_rank: Collection[str]
) -> InputSpec:
    shape = _shape(item)
    is_optional = item.type.startswith("optional(")
    # One that may lack has no rows to count on.
    batch = None if is_optional else _batch(item, shape)
    if spec is None or not spec.kind:
        return InputSpec(item.name, _datatype(item), shape, batch, item.name in any_rank, is_optional)
    is_categorical = spec.kind == common_pb2.COLUMN_KIND_CATEGORICAL
    # A missing value is no category, and is checked by itself.
    categories = frozenset((*spec.categories, "")) if is_categorical and spec.categories else None
    insists = is_categorical and signature.handle_unknown == "error"
    return InputSpec(
        item.name,
        _datatype(item),
        shape,
        batch,
        is_column=True,
        nullable=spec.nullable,
        known=(categories or frozenset(("",))) if insists else None,
        categories=categories,
        is_boolean=spec.kind == common_pb2.COLUMN_KIND_BOOLEAN,
        is_temporal=spec.kind == common_pb2.COLUMN_KIND_TEMPORAL,
        is_series=spec.kind == common_pb2.COLUMN_KIND_SERIES,
    )


def _output(
    item: Any, classes: tuple[str, ...], batches: Collection[str | None], any_rank: Collection[str]
) -> OutputSpec:
    shape = _shape(item)
    labels = classes if classes and shape[-1:] == (len(classes),) else ()
    return OutputSpec(item.name, _datatype(item), shape, labels, _batch(item, shape) in batches, item.name in any_rank)


def _batch(item: Any, shape: tuple[int, ...]) -> str | None:
    """Return what the graph calls the first dimension; None where that is fixed, or where there is none."""
    return (item.shape[0] or "") if shape[:1] == (-1,) else None


def _shape(item: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)


def _datatype(item: Any) -> str:
    # ONNX Runtime's Python interface carries no BF16 tensors, nor sequences and maps over any wire.
    if item.type not in INPUT_DATATYPES:
        raise FailedPrecondition(
            f"the graph takes a {item.type} as {item.name!r}, which cannot be served", reason="LOAD_FAILED"
        )
    return INPUT_DATATYPES[item.type]
