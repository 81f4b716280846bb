"""An example request that was uploaded with a model: JSON in the form of an Open Inference request.

{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.5]}]}

The values are a customer's: messages name inputs, never values.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from servicekit.sample_tensors import Array, Dimension, SampleInput

EXAMPLE_ARTIFACT = "example.json"
MOST_EXAMPLE_BYTES = 64 << 20
_NUMPY = {
    **{f"{kind}{bits}": f"{kind}{bits}".lower() for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


class BadExample(ValueError):
    """The example is none, or does not fit the model; the text says why, for people."""


def read_example(content: bytes, inputs: Iterable[SampleInput]) -> dict[str, Array]:
    """Return an example's tensors by input name.

    Args:
        content: of the file.
        inputs: of the model that it is an example for.

    Raises:
        BadExample: it is none of this model.
    """
    found = dict(_tensor(item) for item in _listed(content))
    expected = {item.name: item for item in inputs}
    if missing := sorted(set(expected) - set(found)):
        raise BadExample(f"it has no input {missing[0]!r}")
    if unknown := sorted(set(found) - set(expected)):
        raise BadExample(f"the model has no input {unknown[0]!r}: it takes {', '.join(expected)}")
    return {name: _fitted(*found[name], item) for name, item in expected.items()}


def _listed(content: bytes) -> list[Mapping[str, Any]]:
    if len(content) > MOST_EXAMPLE_BYTES:
        raise BadExample(f"it has {len(content):,} bytes, at most {MOST_EXAMPLE_BYTES:,} are read")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadExample("it is no JSON") from error
    inputs = parsed.get("inputs") if isinstance(parsed, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
        raise BadExample('it is no request: expected {"inputs": [{"name", "datatype", "shape", "data"}]}')
    return inputs


def _tensor(item: Mapping[str, Any]) -> tuple[str, tuple[str, Array]]:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise BadExample("an input lacks its name or its shape")
    if datatype != "BYTES" and datatype not in _NUMPY:
        raise BadExample(f"input {name!r} has an unknown datatype")
    return name, (str(datatype), _array(name, str(datatype), tuple(shape), item.get("data")))


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 31


def _array(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    kind: Any = object if datatype == "BYTES" else np.dtype(_NUMPY[datatype])
    try:
        # NumPy reads nested lists and flat ones alike, and raises for a number that the type cannot hold.
        array = np.array(data, dtype=kind).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadExample(f"the values of input {name!r} are no {datatype} of shape {list(shape)}") from error
    if datatype == "BYTES" and not all(isinstance(text, str) for text in array.reshape(-1).tolist()):
        raise BadExample(f"input {name!r} takes texts")
    return array


def _fitted(datatype: str, array: Array, item: SampleInput) -> Array:
    """Return an example's tensor as an input takes it: of the same kind of number, of any width."""
    if item.shape is not None and not _fits(array.shape, item.shape):
        wanted = [size if isinstance(size, int) else -1 for size in item.shape]
        raise BadExample(f"input {item.name!r} has shape {wanted}, the example {list(array.shape)}")
    if datatype == item.datatype:
        return array
    if item.datatype == "BF16" and array.dtype.kind in "iuf":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    kind = np.dtype(_NUMPY[item.datatype]) if item.datatype in _NUMPY else None
    if kind is not None and array.dtype.kind in "iuf" and kind.kind in "iuf":
        with np.errstate(all="ignore"):
            cast = array.astype(kind)
        if kind.kind == "f" or np.array_equal(cast.astype(array.dtype), array):
            return cast
    raise BadExample(f"input {item.name!r} takes {item.datatype}, the example has {datatype}")


def _fits(shape: tuple[int, ...], wanted: tuple[Dimension, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(not isinstance(want, int) or want in (-1, size) for size, want in zip(shape, wanted, strict=True))
