"""What a job tells the registry, as the contract has it: from the families' types, pure."""

from collections.abc import Sequence

from lepton.v1 import common_pb2, registry_pb2
from services.training.domain.families.metrics import Scores
from services.training.domain.families.model import Input, Model
from services.training.domain.families.parity import Parity
from services.training.domain.families.target import EMBEDDING
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.unknown_categories import UnknownCategories
from services.training.domain.foreign import ForeignModel, Tensor

KINDS: dict[str, "common_pb2.ColumnKind.ValueType"] = {
    "numeric": common_pb2.COLUMN_KIND_NUMERIC,
    "categorical": common_pb2.COLUMN_KIND_CATEGORICAL,
    "boolean": common_pb2.COLUMN_KIND_BOOLEAN,
    "temporal": common_pb2.COLUMN_KIND_TEMPORAL,
    "series": common_pb2.COLUMN_KIND_SERIES,
}


def signature_to_proto(model: Model) -> common_pb2.Signature:
    """Return what a model takes and gives."""
    target = model.target
    names = ("prediction", "lower", "upper") if target.horizon else (target.output,)
    width = model.width if isinstance(model, TextModel) and target.task == EMBEDDING else target.horizon or 1
    outputs = [common_pb2.TensorSpec(name=name, datatype=target.datatype, shape=[-1, width]) for name in names]
    if target.classes:
        shape = [-1, len(target.classes)]
        outputs.append(common_pb2.TensorSpec(name="probabilities", datatype="FP32", shape=shape))
    return common_pb2.Signature(
        inputs=[_input(taken) for taken in model.inputs()],
        outputs=outputs,
        target=target.name,
        task=target.task,
        classes=target.classes,
        handle_unknown=model.handle_unknown,
        text_columns=[column.name for column in model.columns] if isinstance(model, TextModel) else (),
    )


def foreign_from_proto(graph: bytes, signature: common_pb2.Signature) -> ForeignModel:
    """Return a model that was made elsewhere, from its file and what the registry knows of it."""
    inputs, outputs = (
        tuple(Tensor(spec.name, spec.datatype, tuple(spec.shape)) for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return ForeignModel(graph, inputs, outputs, tuple(signature.classes))


def evaluation_to_proto(
    dataset: str, scores: Scores, unknown: Sequence[UnknownCategories] = ()
) -> common_pb2.Evaluation:
    """Return scores on a dataset version, and the columns with categories in it that the model does not know."""
    metrics = [
        common_pb2.Metric(name=name, value=value, draws=scores.draws.get(name, ()))
        for name, value in sorted(scores.metrics.items())
    ]
    message = common_pb2.Evaluation(dataset=dataset, rows=scores.rows, metrics=metrics)
    message.unknown_categories.extend(
        common_pb2.UnknownCategories(column=each.column, unknown_rows=each.unknown_rows, rows=each.rows)
        for each in unknown
    )
    if scores.labels:
        message.confusion_matrix.labels.extend(scores.labels)
        message.confusion_matrix.counts.extend(scores.confusion)
    return message


def parity_to_proto(parity: Parity) -> registry_pb2.Parity:
    """Return a parity measurement."""
    return registry_pb2.Parity(**vars(parity))


def _input(taken: Input) -> common_pb2.TensorSpec:
    spec = common_pb2.TensorSpec(name=taken.name, datatype=taken.datatype, shape=taken.shape)
    if taken.column is not None:
        spec.nullable = taken.column.nullable
        spec.categories.extend(taken.column.categories)
        spec.kind = KINDS[taken.column.kind]
    return spec
