"""bfloat16 in the SDK: rounded as every library rounds it, and read back as 32-bit floats."""

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.open_inference import _decode, _encode


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32), max_size=20))
def test_numbers_are_rounded_to_bfloat16_and_come_back_as_floats(values: list[float]) -> None:
    array = np.array(values, np.float32)
    expected = array.astype(ml_dtypes.bfloat16)
    found = _decode("BF16", _encode("BF16", array), array.shape)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.astype(np.float32), equal_nan=True)


def test_shapes_stay() -> None:
    array = np.array([[1.0, -2.5], [np.inf, 3.39e38]], np.float32)
    assert _encode("BF16", array) == array.astype(ml_dtypes.bfloat16).tobytes()
    assert _decode("BF16", _encode("BF16", array), (2, 2)).shape == (2, 2)
    assert _decode("BF16", b"", (0, 2)).shape == (0, 2)
