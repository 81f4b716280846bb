"""How predictions reach whatever runs models: serving's servicer has the method."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from services.inference.serving.model import Array, LoadedModel

# Runs a model on checked inputs by name; returns the outputs that are named.
Run: TypeAlias = Callable[[LoadedModel, dict[str, Array], list[str]], Awaitable[list[Array]]]
