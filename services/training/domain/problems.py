"""Collects what is wrong with a request, so that one refusal names all of it."""

import contextlib
from collections.abc import Iterator

from servicekit.errors import InvalidArgument

_MOST_NAMED = 16


class Problems:
    """What is wrong with a request."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str, str]] = []

    def add(self, field: str, description: str, reason: str) -> None:
        """Record a problem.

        Args:
            field: path of the request's field, such as `spec.seed`.
            description: what is wrong, what was expected, what to do.
            reason: stable, for programs.
        """
        if all(known[:2] != (field, description) for known in self._found):
            self._found.append((field, description, reason))

    @contextlib.contextmanager
    def collecting(self, field: str) -> Iterator[None]:
        """Record an InvalidArgument that is raised inside, instead of raising it."""
        try:
            yield
        except InvalidArgument as error:
            if not error.violations:
                self.add(field, error.message, error.reason)
            for path, description in error.violations:
                self.add(path, description, error.reason)

    def refuse(self) -> None:
        """Raise what was found, if anything.

        Raises:
            InvalidArgument: with a violation for each problem; the reason is the first one's.
        """
        if not self._found:
            return
        shown = "; ".join(description for _, description, _ in self._found[:_MOST_NAMED])
        more = len(self._found) - _MOST_NAMED
        raise InvalidArgument(
            f"{shown}; and {more:,} more" if more > 0 else shown,
            reason=self._found[0][2],
            violations=[(field, description) for field, description, _ in self._found],
        )
