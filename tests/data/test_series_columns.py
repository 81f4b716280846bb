"""Columns of series in the other steps: they pass along, are told apart, and are refused where single values count."""

import pyarrow as pa
import pytest

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.transform import Transform
from services.data.domain.types import Recipe, Step

LISTS = [[1.0, None], [1.0, 0.0], [1.0, None], None, [], [1.0], [0.0, 1.0]]
TABLE = pa.table({"n": range(7), "x": pa.array(LISTS, SERIES)})


def _lists(kind: str, **arguments: object) -> list[object]:
    transform = Transform(Recipe((Step(kind, arguments),)), TABLE.schema)
    found: list[object] = pa.Table.from_batches(
        list(transform.run(lambda: iter(TABLE.to_batches(max_chunksize=2)))), transform.schema
    )["x"].to_pylist()
    return found


def test_equal_series_are_duplicates() -> None:
    assert _lists("drop_duplicates", columns=["x"]) == [LISTS[place] for place in (0, 1, 3, 4, 5, 6)]


def test_missing_series_are_dropped_and_short_ones_stay() -> None:
    expected = [LISTS[place] for place in (0, 1, 2, 4, 5, 6)]
    assert _lists("drop_missing", columns=[]) == expected
    assert _lists("filter", expression="x.notna()") == expected


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("filter", {"expression": "x > 1"}, "BAD_FILTER_EXPRESSION"),
        ("filter", {"expression": "x == n"}, "BAD_FILTER_EXPRESSION"),
        ("filter", {"expression": "x in [1, 2]"}, "BAD_FILTER_EXPRESSION"),
        ("filter", {"expression": "x + 1 > n"}, "BAD_FILTER_EXPRESSION"),
        ("cast", {"types": {"x": "string"}}, "BAD_CAST"),
        ("cast", {"types": {"n": "list<item: double>"}}, "UNKNOWN_TYPE"),
        ("fill_missing", {"values": {"x": "0"}}, "BAD_CAST"),
        ("split", {"test_fraction": 0.5, "seed": 0, "stratify": "x"}, "BAD_RECIPE"),
    ],
)
def test_series_are_no_single_values(kind: str, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        _lists(kind, **arguments)
    assert refused.value.reason == reason
