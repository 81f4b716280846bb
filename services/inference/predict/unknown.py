"""Which values of rows a model reads as unknown categories."""

from collections import Counter
from collections.abc import Mapping

from lepton.v1 import common_pb2
from services.inference.serving.model import Array, LoadedModel


class UnknownValues:
    """Counts unknown categories by column.

    Args:
        model: whose categories count.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._categories = {spec.name: spec.categories for spec in model.inputs.values() if spec.categories is not None}
        self._unknown: Counter[str] = Counter()
        self._rows = 0

    def add(self, inputs: Mapping[str, Array], rows: int) -> None:
        """Count those of some rows.

        Args:
            inputs: by name, as the model takes them.
            rows: how many.
        """
        self._rows += rows
        for name, known in self._categories.items():
            texts = inputs[name].ravel().tolist()
            if not known.issuperset(texts):
                self._unknown[name] += sum(text not in known for text in texts)

    def to_proto(self) -> list[common_pb2.UnknownCategories]:
        """Return the columns that have some, as messages."""
        return [
            common_pb2.UnknownCategories(column=name, unknown_rows=count, rows=self._rows)
            for name, count in self._unknown.items()
        ]
