"""Tries whether rows that share a run get what each gets alone: random rows, of several lengths and magnitudes.

It confirms what the analysis of the graph shows: a kernel or an optimised graph may still differ from the rules.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from services.inference.serving.model import NUMPY_TYPES, Array, LoadedModel
from services.inference.serving.session import PROVIDERS

# Sizes for dimensions that vary: dimensions of one name have one size. Most graphs take any; images may want more.
_SIZES = (7, 33, 16, 64, 224, 1)
# Values of whole numbers: of few tokens, of flags, none.
_HIGHS = (50, 2, 1)
# Rows of the requests that share a run, and how large their floats are.
_TRIALS = (((1, 1), (1.0, 100.0)), ((2, 1, 3), (0.01, 10.0, 1.0)), ((1, 4), (1000.0, 0.1)))
_TEXTS = ("a", "b", "", "ab")
_ENOUGH_SIZES = 2
_LONGEST_SECONDS = 2.0
# Differences of rounding, relative to the largest number of an answer: sums in another order, and on a GPU products of
# numbers that are cut.
_TOLERANCES = {"f2": 1e-2, "f4": 3e-5, "f8": 1e-10}
_DEVICE_TOLERANCES = {"f2": 3e-2, "f4": 5e-3, "f8": 1e-7}

Feeds = dict[str, Array]
_Maker = Callable[[int, float], Feeds]


def find_mixing(model: LoadedModel, known: Feeds, seconds: float = _LONGEST_SECONDS) -> str:
    """Return what shows that rows of one run change each other, for people; empty where nothing does.

    Args:
        model: loaded.
        known: a request that it answers, for graphs that take no random one.
        seconds: after which no further trial begins, once there was one.
    """
    random = np.random.default_rng(0)
    ends = time.monotonic() + seconds
    tried = 0
    for makers in _makers(model, random, known):
        make = next((make for make in makers if _runs(model, make(1, 1.0))), None)
        if make is None:
            continue
        compared = 0
        for counts, magnitudes in _TRIALS:
            found = _compare(model, [make(rows, size) for rows, size in zip(counts, magnitudes, strict=True)])
            if found:
                return found
            compared += found is not None
            if compared and time.monotonic() > ends:
                return ""
        tried += compared > 0
        if tried == _ENOUGH_SIZES:
            break
    return "" if tried else "no random input could be run"


def _makers(model: LoadedModel, random: np.random.Generator, known: Feeds) -> Iterator[list[_Maker]]:
    """Yield ways to make rows, given how many and how large their floats are: of each length some, likeliest first."""
    varies = any(size < 0 for spec in model.inputs.values() for size in spec.shape[1:])
    for size in _SIZES if varies else _SIZES[:1]:
        yield [partial(_rows, model, random, size, high) for high in _HIGHS]
    yield [partial(_like, random, known)]


def _like(random: np.random.Generator, known: Feeds, rows: int, magnitude: float) -> Feeds:
    """Return rows like those of a request, with other floats."""
    found: Feeds = {}
    for name, array in known.items():
        found[name] = np.repeat(array[:1], rows, axis=0)
        if array.dtype.kind == "f":
            factors = random.uniform(0.5, 1.5, found[name].shape) * min(magnitude, 2.0)
            found[name] = (found[name] * factors).astype(array.dtype)
    return found


def _rows(model: LoadedModel, random: np.random.Generator, size: int, high: int, rows: int, magnitude: float) -> Feeds:
    found: Feeds = {}
    for spec in model.inputs.values():
        shape = (rows, *(size if dimension < 0 else dimension for dimension in spec.shape[1:]))
        if spec.datatype == "BYTES":
            found[spec.name] = random.choice(np.array(sorted(spec.known or _TEXTS), dtype=object), shape)
        elif spec.datatype == "BOOL":
            found[spec.name] = random.random(shape) < 0.5
        elif spec.datatype in ("BF16", "FP16", "FP32", "FP64"):
            values = random.normal(size=shape) * magnitude
            found[spec.name] = values.astype(NUMPY_TYPES[spec.datatype])
        else:
            found[spec.name] = random.integers(0, high, shape).astype(NUMPY_TYPES[spec.datatype])
    return found


def _runs(model: LoadedModel, feeds: Feeds) -> bool:
    try:
        model.session.run(list(model.outputs), feeds)
    except Exception:
        return False
    return True


def _compare(model: LoadedModel, parts: list[Feeds]) -> str | None:
    """Return what differs between lone answers and those of a shared run; empty for nothing, None where it failed."""
    together = {name: np.concatenate([part[name] for part in parts]) for name in model.inputs}
    try:
        alone = [model.session.run(list(model.outputs), part) for part in parts]
        answers = model.session.run(list(model.outputs), together)
    except Exception:
        # Each random row may be wrong for the model by itself; so this says nothing, unless it takes no batch at all.
        return None if _takes_batches(model, parts[0]) else "it does not take several rows"
    rows = sum(_count(part) for part in parts)
    for place, (name, answer) in enumerate(zip(model.outputs, answers, strict=True)):
        if answer.shape[:1] != (rows,):
            return f"output {name!r} does not have one row for each row"
        start = 0
        for part, own in zip(parts, alone, strict=True):
            end = start + _count(part)
            if not _agrees(answer[start:end], own[place], on_device=model.provider != PROVIDERS[-1]):
                return f"output {name!r} of a row changed with the rows of other requests"
            start = end
    return ""


def _takes_batches(model: LoadedModel, part: Feeds) -> bool:
    twice = {name: np.concatenate([array, array]) for name, array in part.items()}
    return not _runs(model, part) or _runs(model, twice)


def _count(part: Mapping[str, Array]) -> int:
    return int(next(iter(part.values())).shape[0])


def _agrees(found: Array, expected: Array, *, on_device: bool) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    tolerance = (_DEVICE_TOLERANCES if on_device else _TOLERANCES)[found.dtype.str[1:]]
    one, other = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(other)
    scale = float(np.abs(other[finite]).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=0.0, atol=tolerance * scale, equal_nan=True))
