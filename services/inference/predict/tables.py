"""Arrow batches to arrays by a model's signature, and answers to Arrow columns: pure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.predict.answers import Answers
from services.inference.predict.moments import is_moment, to_microseconds
from services.inference.predict.problems import Problems
from services.inference.predict.rows import as_column, as_series, refuse_other_lengths
from services.inference.serving.model import NUMPY_TYPES, Array, InputSpec, LoadedModel

# A table with more is no table that people look at.
_MOST_COLUMNS = 1000
_PREDICTED = "_predicted"


def batch_to_arrays(batch: pa.RecordBatch, model: LoadedModel, first_row: int = 0) -> dict[str, Array]:
    """Return a model's inputs by name, each (rows, 1) or (rows,) as the graph has it; series (rows, steps).

    Args:
        batch: the rows, with a column for each input.
        model: whose signature counts.
        first_row: the number of the batch's first row in the dataset, for messages.

    Raises:
        InvalidArgument: a column is not what the input takes; with a violation for each value, the first 16 of them.
    """
    problems = Problems(model.deployment, lambda row, column: f"dataset row {row}, column {column!r}", first_row)
    arrays: dict[str, Array] = {}
    lengths: dict[str, list[int]] = {}
    # By name at once: Arrow looks at every name for each that it is asked for.
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for spec in model.inputs.values():
        column = columns[spec.name]
        if spec.is_series:
            items = _series(column, spec, model, problems)
            arrays[spec.name], lengths[spec.name] = as_series(items, spec), [len(item) for item in items]
            problems.look(arrays[spec.name], spec)
            continue
        if spec.datatype == "BOOL" or not spec.datatype.startswith(("FP", "BYTES")):
            for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                problems.add(row, spec.name, "a value in every row, for training had no missing one", "a missing value")
        arrays[spec.name] = _array(column, spec, model)
        problems.look(arrays[spec.name], spec)
    problems.refuse()
    refuse_other_lengths(lengths, problems)
    return arrays


def types_to_read(found: Mapping[str, str], model: LoadedModel) -> dict[str, str]:
    """Return the Arrow types to read a dataset's columns as, where a model's types are others.

    Texts are read as the file had them, and what the file's texts spell where the model wants numbers, truth values or
    dates. Other types convert while rows become arrays, or are refused there.

    Args:
        found: Arrow type name by column.
        model: whose signature counts.
    """
    types = {}
    for name, kind in found.items():
        spec = model.inputs.get(name)
        if spec is None or spec.is_series:
            continue
        is_text = kind in ("string", "large_string")
        wanted = _text_wanted(spec) if is_text else "string" if spec.datatype == "BYTES" and spec.is_column else ""
        if wanted and wanted != kind:
            types[name] = wanted
    return types


def _text_wanted(spec: InputSpec) -> str:
    """Return what texts are read as for an input; empty for texts."""
    if spec.datatype == "BYTES":
        return ""
    if spec.is_temporal:
        return "timestamp[us]"
    if spec.is_boolean or spec.datatype == "BOOL":
        return "bool"
    return "double" if spec.datatype.startswith("FP") else "int64"


def missing_columns(names: Sequence[str], model: LoadedModel) -> list[str]:
    """Return the inputs of a model that some columns lack."""
    return [name for name in model.inputs if name not in names]


def answer_columns(answers: Answers, model: LoadedModel, carried: Sequence[str]) -> dict[str, pa.Array]:
    """Return what goes behind the carried columns, by name: the prediction, then a probability a class.

    Of a forecast these are series: the prediction, then the ends of its interval.

    Raises:
        InvalidArgument: a carried column has the name of one of them.
        FailedPrecondition: there are too many.
    """
    columns = _named_columns(answers, model, carried)
    if len(columns) > _MOST_COLUMNS:
        raise FailedPrecondition(
            f"model {model.deployment!r} gives {len(columns):,} values a row, at most {_MOST_COLUMNS:,} become columns",
            reason="TOO_MANY_OUTPUTS",
        )
    taken = [name for name in columns if name in carried]
    if taken:
        raise InvalidArgument(
            f"the dataset has columns of the predictions' names: {', '.join(taken[:20])}; carry others along",
            reason="COLUMN_TAKEN",
            violations=[("columns", f"{name!r} is the name of a prediction") for name in taken[:20]],
        )
    return columns


def _named_columns(answers: Answers, model: LoadedModel, carried: Sequence[str]) -> dict[str, pa.Array]:
    target = model.target or "prediction"
    prediction = answers.prediction
    if answers.interval is not None:
        name = f"{target}{_PREDICTED}" if target in carried else target
        lists = (prediction, *answers.interval)
        return {key: _lists(values) for key, values in zip((name, "lower", "upper"), lists, strict=True)}
    if prediction.shape[1] != 1:
        return {f"{target}_{place}": _arrow(prediction[:, place]) for place in range(prediction.shape[1])}
    # The truth stays beside what was predicted.
    name = f"{target}{_PREDICTED}" if target in carried else target
    columns = {name: _arrow(prediction[:, 0])}
    if answers.probabilities is not None:
        for place, label in enumerate(answers.classes):
            columns[f"probability_{label}"] = _arrow(answers.probabilities[:, place])
    return columns


def _arrow(values: Array) -> pa.Array:
    if values.dtype.kind in "OSU":
        texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
        return pa.array(texts, pa.string())
    # Tables hold no half floats.
    return pa.array(values.astype(np.float32) if values.dtype == np.float16 else np.ascontiguousarray(values))


def _lists(values: Array) -> pa.Array:
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.float64).reshape(-1)))


def _series(column: pa.Array, spec: InputSpec, model: LoadedModel, problems: Problems) -> list[Array]:
    if not (pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type)):
        raise _wrong_type(column, spec, model)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    steps = column.flatten().fill_null(np.nan).to_numpy(zero_copy_only=False)
    items = np.split(steps, np.cumsum(lengths)[:-1])
    for row, item in enumerate(items):
        if not len(item):
            problems.add(row, spec.name, "a series of one step at least", "none")
    return items


def _array(column: pa.Array, spec: InputSpec, model: LoadedModel) -> Array:
    wanted = _wanted(spec)
    try:
        if not _takes(column.type, spec):
            raise pa.ArrowInvalid(str(column.type))
        column = _plain(column, spec)
        if pa.types.is_boolean(column.type) and pa.types.is_floating(wanted):
            column = column.cast(pa.int8())
        # Integers beyond 2**53 may round on their way to doubles; a fraction never becomes an integer.
        filled = pc.fill_null(column.cast(wanted, safe=not pa.types.is_floating(wanted)), _filler(wanted))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(column, spec, model) from error
    return as_column(filled.to_numpy(zero_copy_only=False), spec)


def _wrong_type(column: pa.Array, spec: InputSpec, model: LoadedModel) -> InvalidArgument:
    wanted = _expected(spec)
    return InvalidArgument(
        f"model {model.deployment!r}, column {spec.name!r}: expected {wanted}, got {column.type} ones that do not "
        "convert",
        reason="COLUMN_TYPE",
        metadata={"model": model.deployment, "column": spec.name},
        violations=[(f"dataset column {spec.name!r}", f"expected {wanted}, got {column.type}")],
    )


def _expected(spec: InputSpec) -> str:
    if spec.is_series:
        return "series of numbers"
    if spec.is_temporal:
        return "dates or times"
    if spec.datatype == "BYTES":
        return "texts (import the dataset with this column as string)"
    return "truth values" if spec.is_boolean else f"{spec.datatype} values"


def _plain(column: pa.Array, spec: InputSpec) -> pa.Array:
    """Return dates and times as microseconds, and durations as seconds, as training reads them."""
    if spec.is_temporal and is_moment(column.type):
        return to_microseconds(column)
    if pa.types.is_duration(column.type):
        return pc.divide(column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
    return column


def _wanted(spec: InputSpec) -> pa.DataType:
    """Return the Arrow type of an input."""
    if spec.datatype == "BYTES":
        return pa.string()
    if spec.datatype == "BOOL":
        return pa.bool_()
    return pa.float64() if spec.datatype.startswith("FP") else pa.from_numpy_dtype(NUMPY_TYPES[spec.datatype])


def _takes(found: pa.DataType, spec: InputSpec) -> bool:
    """Return whether a column's type may become an input's: only where nothing has to be guessed."""
    if pa.types.is_null(found):
        return True
    if spec.is_temporal:
        return is_moment(found)
    if spec.datatype == "BOOL" or spec.is_boolean:
        return bool(pa.types.is_boolean(found))
    if spec.datatype == "BYTES":
        # Whole numbers have one spelling; fractions, truth values and dates several, and training's is unknown.
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_integer(found))
    is_number = pa.types.is_integer(found) or pa.types.is_floating(found)
    return bool(is_number or (pa.types.is_duration(found) and spec.datatype.startswith("FP")))


def _filler(kind: pa.DataType) -> pa.Scalar:
    """Return what stands for a missing value on the wire, or, where nothing does, for one that is refused."""
    if pa.types.is_string(kind):
        return pa.scalar("", kind)
    return pa.scalar(float("nan"), kind) if pa.types.is_floating(kind) else pa.scalar(0).cast(kind)
