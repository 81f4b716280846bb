import gc
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def living(kind: type[T]) -> Iterator[T]:
    """Yield the instances of a class that this process holds, those included that only the collector would find."""
    # By their type: `isinstance` asks the object, and some of the libraries' objects warn whoever asks.
    return (one for one in gc.get_objects() if issubclass(type(one), kind))
