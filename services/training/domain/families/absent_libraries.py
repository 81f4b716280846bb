"""Libraries that are installed for others, and that what we import would load along were they not said to be absent."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class AbsentLibraries(MetaPathFinder):
    """A finder that knows of no library of some names, as if they were not installed.

    Args:
        names: of the libraries.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse the names; leave all others to the finders that follow."""
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"no module named {fullname!r}", name=fullname)
        return None


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Say that libraries are absent, in a block of imports."""
    finder = AbsentLibraries(*names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
