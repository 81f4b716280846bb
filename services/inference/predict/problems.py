"""What is wrong with rows, collected, so that one refusal names the first of them by row and column."""

from collections.abc import Callable

from servicekit.errors import InvalidArgument
from services.inference.serving.codec import wrong_values
from services.inference.serving.model import Array, InputSpec

# Enough to mend a request by.
_MOST = 16


class Problems:
    """What is wrong with some rows.

    Args:
        deployment: whose rows they are.
        path: of a value in the request, by row and column.
        first_row: the number of the first of the rows.
    """

    def __init__(self, deployment: str, path: Callable[[int, str], str], first_row: int = 0) -> None:
        self._deployment = deployment
        self._path = path
        self._first_row = first_row
        self._found: list[tuple[int, str, str, str]] = []

    @property
    def is_full(self) -> bool:
        """Whether more would not be told."""
        return len(self._found) >= _MOST

    def add(self, row: int, column: str, expected: str, got: str) -> None:
        """Remember a value that is wrong, by its row among these."""
        if not self.is_full:
            self._found.append((row + self._first_row, column, expected, got))

    def look(self, array: Array, spec: InputSpec) -> None:
        """Remember the rows of a column that a prediction by tensors would refuse, too."""
        if wrong_values(array, spec) is None:
            return
        for row in range(len(array)):
            wrong = wrong_values(array[row : row + 1], spec)
            if wrong is not None:
                self.add(row, spec.name, *wrong)
            if self.is_full:
                return

    def refuse(self) -> None:
        """Raise what was found, if anything.

        Raises:
            InvalidArgument: with a violation for each wrong value, the first 16 of them.
        """
        if not self._found:
            return
        row, column, expected, got = self._found[0]
        more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
        raise InvalidArgument(
            f"model {self._deployment!r}, row {row}, column {column!r}: expected {expected}, got {got}{more}",
            reason="BAD_ROW",
            metadata={"model": self._deployment, "row": str(row), "column": column},
            violations=[
                (self._path(row, column), f"expected {expected}, got {got}")
                for row, column, expected, got in sorted(self._found, key=lambda item: item[0])
            ],
        )
