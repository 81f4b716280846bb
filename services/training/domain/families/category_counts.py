"""How often each text of a column occurs, counted piece by piece in bounded memory."""

import pyarrow as pa
import pyarrow.compute as pc

# Far more than the most categories that a model may know.
_MOST_VALUES = 1 << 16
_MOST_CHARACTERS = 8 << 20


class CategoryCounts:
    """Counts of texts, exact as long as there are some ten thousand different ones.

    Where there are more, the rarer half is forgotten from time to time, so that the frequent ones are still found, and
    a value that is forgotten and comes back counts anew (after Manku and Motwani, Approximate frequency counts over
    data streams, VLDB 2002).
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._characters = 0
        self._has_forgotten = False

    def update(self, values: pa.ChunkedArray) -> None:
        """Add a column's texts."""
        found = pc.value_counts(values)
        for value, count in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
            if value not in self._counts:
                self._characters += len(value)
            self._counts[value] = self._counts.get(value, 0) + count
        if len(self._counts) > _MOST_VALUES or self._characters > _MOST_CHARACTERS:
            self._forget()

    def most_frequent(self, most: int) -> tuple[str, ...]:
        """Return the most frequent texts, those first; ties in alphabetical order."""
        return tuple(self._ordered()[:most])

    def has_more_than(self, most: int) -> bool:
        """Return whether there are more different texts than that."""
        return self._has_forgotten or len(self._counts) > most

    def _forget(self) -> None:
        kept = self._ordered()[: _MOST_VALUES // 2]
        while sum(map(len, kept)) > _MOST_CHARACTERS // 2 and len(kept) > 1:
            kept = kept[: len(kept) // 2]
        self._has_forgotten = self._has_forgotten or len(kept) < len(self._counts)
        self._counts = {value: self._counts[value] for value in kept}
        self._characters = sum(map(len, kept))

    def _ordered(self) -> list[str]:
        # Ties in alphabetical order, so that the same rows in another order give the same model.
        return sorted(self._counts, key=lambda value: (-self._counts[value], value))
