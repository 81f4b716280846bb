"""A frame's column is taken or refused as the same values in rows are, whatever they are."""

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton import errors
from lepton.open_inference import column_values
from lepton.typed_rows import to_row
from lepton.v1 import common_pb2
from servicekit.errors import InvalidArgument
from services.inference.predict.rows import rows_to_arrays
from services.inference.serving.codec import wrong_values
from services.inference.serving.model import InputSpec, LoadedModel
from tests.inference.predict.models import price_model

# Rows are read by a model's inputs alone, whatever its graph.
_SESSION = onnxruntime.InferenceSession(price_model(), providers=["CPUExecutionProvider"])
_DATATYPES = ("BOOL", "INT8", "INT32", "INT64", "UINT8", "UINT32", "FP32", "FP64")

values = st.one_of(
    st.none(),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.integers(-300, 300),
    st.sampled_from([2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, -(10**400)]),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**63 - 1).map(np.uint64),
    st.floats(),
    st.sampled_from([1.9, 2.0, -0.0, 2.0**53, 2.0**60, 1e300, math.nan, math.inf]),
    st.floats(width=32).map(np.float32),
    st.decimals(allow_infinity=True, allow_nan=True),
    st.fractions(),
    st.sampled_from(["False", "no", "True", "1", "1_000", "2.0", "", "nan", "x"]),
    st.sampled_from(
        [pd.NA, pd.NaT, np.datetime64("NaT"), 1j, b"1", Decimal("sNaN"), Fraction(4, 2), timedelta(seconds=2)]
    ),
)


def _by_frame(
    column: "pd.Series[Any]", datatype: str, is_boolean: bool, nullable: bool
) -> "np.ndarray[Any, Any] | None":
    """Return what the services get of a frame's column; None where it is refused on the way."""
    kind = common_pb2.COLUMN_KIND_BOOLEAN if is_boolean else common_pb2.COLUMN_KIND_NUMERIC
    try:
        array = column_values(column, common_pb2.TensorSpec(name="c", datatype=datatype, nullable=nullable, kind=kind))
    except errors.InvalidArgument:
        return None
    return None if wrong_values(array, _input(datatype, is_boolean, nullable)) else array


def _by_rows(items: list[Any], datatype: str, is_boolean: bool, nullable: bool) -> "np.ndarray[Any, Any] | None":
    spec = _input(datatype, is_boolean, nullable)
    model = LoadedModel("m", 1, "d", _SESSION, {"c": spec}, {})
    try:
        return rows_to_arrays([to_row({"c": item}) for item in items], model)["c"]
    except (InvalidArgument, errors.InvalidArgument):
        return None


def _input(datatype: str, is_boolean: bool, nullable: bool) -> InputSpec:
    return InputSpec("c", datatype, (-1, 1), is_column=True, nullable=nullable, is_boolean=is_boolean)


@settings(deadline=None, max_examples=400)
@given(st.lists(values, min_size=1, max_size=3), st.sampled_from(_DATATYPES), st.booleans(), st.booleans())
def test_frame_and_rows_agree(items: list[Any], datatype: str, is_boolean: bool, nullable: bool) -> None:
    is_boolean = is_boolean and (datatype == "BOOL" or datatype.startswith("FP"))
    column = pd.Series(items, dtype=object)
    found = _by_frame(column, datatype, is_boolean, nullable)
    expected = _by_rows(items, datatype, is_boolean, nullable)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
