"""How predictions reach whatever runs models: serving's servicer has the method."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import numpy as np

from servicekit.errors import FailedPrecondition
from services.inference.serving.model import Array, LoadedModel

# Runs a model on checked inputs by name; returns the outputs that are named.
Run: TypeAlias = Callable[[LoadedModel, dict[str, Array], list[str]], Awaitable[list[Array]]]


async def run_rows(run: Run, model: LoadedModel, inputs: dict[str, Array], names: list[str]) -> list[Array]:
    """Run a model on rows that the platform put together: how it did so never changes an answer.

    Where rows were not shown to be independent each has a run of its own.

    Args:
        run: runs a model.
        model: the model.
        inputs: by name, checked; rows first.
        names: of the outputs that are wanted.

    Raises:
        FailedPrecondition: rows were to run one by one, and an output does not have one row for one.
        LeptonError: as `run`.
    """
    rows = len(next(iter(inputs.values()))) if inputs else 1
    if rows < 2 or not asks_singly(model):
        return await run(model, inputs, names)
    found = [
        await run(model, {name: array[place : place + 1] for name, array in inputs.items()}, names)
        for place in range(rows)
    ]
    columns = list(zip(*found, strict=True))
    if any(array.shape[:1] != (1,) or array.shape != column[0].shape for column in columns for array in column):
        raise FailedPrecondition(
            f"model {model.deployment!r} does not give one row for one: ask by ModelInfer",
            reason="OUTPUT_NOT_BY_ROW",
        )
    return [np.concatenate(column) for column in columns]


def asks_singly(model: LoadedModel) -> bool:
    """Return whether rows that the platform splits have a run each: they may mix, and the graph takes one row."""
    return not model.is_by_row and all(spec.shape and spec.shape[0] in (-1, 1) for spec in model.inputs.values())
