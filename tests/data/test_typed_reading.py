"""Columns are read as the types that a model gave them: text exactly as imported, numbers exactly or not at all."""

import csv
import io
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.original_texts import listed_schema
from services.data.domain.readers import MISSING, read_file
from services.data.domain.transform import Transform
from services.data.domain.typed_reading import TypedTable
from services.data.domain.types import FileFormat, Recipe, Step


class MemoryTable:
    """A stored table in memory, companions among its columns."""

    def __init__(self, stored: pa.Table) -> None:
        self._stored = stored
        self.stored_schema = stored.schema
        self.schema = listed_schema(stored.schema)

    def batches(
        self, columns: list[str] | None = None, first_row: int = 0, most_rows: int = 0
    ) -> Iterator[pa.RecordBatch]:
        rows = self._stored.slice(first_row, most_rows or None)
        yield from rows.select(self.schema.names if columns is None else columns).to_batches(max_chunksize=3)


def _stored(content: str) -> pa.Table:
    found = read_file(lambda: io.BytesIO(content.encode()), FileFormat.CSV)
    return pa.Table.from_batches(list(found.batches), found.schema)


def _csv(*columns: tuple[str, list[str]]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
    writer.writerow([name for name, _ in columns])
    writer.writerows(zip(*(values for _, values in columns), strict=True))
    return sink.getvalue()


def _typed(stored: pa.Table, types: Mapping[str, str]) -> pa.Table:
    typed = TypedTable(MemoryTable(stored), types)
    typed.check()
    return pa.Table.from_batches(list(typed.batches()), typed.schema)


_LIKE_VALUES = [
    *("007", "12", "-0", "+5", "1.50", "1.5", "1e5", "1E5", "1_000", "0x1F", " 5", "5 ", "00501", "1.0", "-0.0", ".5"),
    *("16699327784941023797", "16699327784941023798", "9007199254740993", "0.1234567890123456789", "1e400"),
    *("True", "true", "FALSE", "yes", "0", "1", "2020-01-01", "2020-01-01 10:00", "2020-01-01T10:00:00.123456789"),
    *("2020-01-01T00:00:00Z", "12:30", "01.02.2020", "01/02/2020", "5%", "$5", "1,5", "1.234,5", '="00501"', "Ünï"),
]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(_LIKE_VALUES) | st.text("0123456789.-+eE: /", min_size=1, max_size=12), min_size=1),
    st.booleans(),
)
def test_text_of_any_column_is_the_text_of_the_file(values: list[str], is_one_kind: bool) -> None:
    texts = [values[0]] * len(values) if is_one_kind else values
    texts = [text for text in texts if text not in MISSING]
    if not texts:
        return
    try:
        stored = _stored(_csv(("c", texts), ("n", ["1"] * len(texts))))
    except InvalidArgument as error:
        assert error.reason == "INFINITE_VALUE"  # noqa: PT017
        return
    assert _typed(stored, {"c": "string"})["c"].to_pylist() == texts


@pytest.mark.parametrize("values", [["007", "008"], ["True", "false"], ["2020-01-01"], [" 5", " 6"], ["1.50"]])
def test_steps_that_keep_rows_keep_their_texts(values: list[str]) -> None:
    stored = _stored(_csv(("c", [*values, "NA", values[0]]), ("n", [str(row) for row in range(len(values) + 2)])))
    recipe = Recipe(
        (
            Step("filter", {"expression": "n > -1"}),
            Step("drop_missing", {"columns": []}),
            Step("drop_duplicates", {"columns": ["c"]}),
            Step("rename", {"names": {"c": "d"}}),
            Step("sample", {"rows": 100, "fraction": 0.0, "seed": 1}),
        )
    )
    transform = Transform(recipe, stored.schema)
    kept = pa.Table.from_batches(list(transform.run(lambda: iter(stored.to_batches()))), transform.schema)
    assert listed_schema(kept.schema).names == ["d", "n"]
    assert _typed(kept, {"d": "string"})["d"].to_pylist() == values
    to_text = Transform(Recipe((Step("cast", {"types": {"d": "string"}}),)), kept.schema)
    made = pa.Table.from_batches(list(to_text.run(lambda: iter(kept.to_batches()))), to_text.schema)
    assert made["d"].to_pylist() == values
    assert made.schema.names == ["d", "n"]


def test_filled_value_has_its_own_text() -> None:
    stored = _stored(
        _csv(
            ("c", ["1.50", "NA"]),
        )
    )
    transform = Transform(Recipe((Step("fill_missing", {"values": {"c": "2.5"}}),)), stored.schema)
    made = pa.Table.from_batches(list(transform.run(lambda: iter(stored.to_batches()))), transform.schema)
    assert _typed(made, {"c": "string"})["c"].to_pylist() == ["1.50", "2.5"]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "2"], "double", [1.0, 2.0]),
        (["1.0", "2.0"], "int64", [1, 2]),
        (["x"], "string", ["x"]),
        (["NA", "NA"], "double", [None, None]),
        (["0.1", "0.5"], "float", [pytest.approx(0.1, rel=1e-6), 0.5]),
        (["true", "FALSE"], "bool", [True, False]),
        (["9007199254740993"], "int64", [9007199254740993]),
    ],
)
def test_value_that_stays_the_same_is_read(values: list[str], kind: str, expected: list[object]) -> None:
    assert _typed(_stored(_csv(("c", values))), {"c": kind})["c"].to_pylist() == expected


def test_all_columns_that_do_not_fit_are_named_with_their_first_row_and_no_value() -> None:
    stored = _stored(
        _csv(
            ("half", ["1.0"] * 5 + ["1.5"]),
            ("word", ["1"] * 4 + ["secret", "2"]),
            ("id", ["1"] * 5 + ["9007199254740993"]),
            ("flag", ["true"] * 6),
            ("fine", ["1"] * 6),
        )
    )
    types = {"half": "int64", "word": "double", "id": "double", "flag": "double", "fine": "double"}
    with pytest.raises(InvalidArgument) as refusal:
        _typed(stored, types)
    assert refusal.value.reason == "COLUMN_TYPE_MISMATCH"
    assert [field for field, _ in refusal.value.violations] == [f"types[{name}]" for name in types if name != "fine"]
    message = refusal.value.message
    for part in ("'half': double cannot be read as int64 (data row 6)", "(data row 5)", "'flag'", "types={"):
        assert part in message
    assert "secret" not in message


def test_type_for_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="lacks: 'z'"):
        _typed(_stored("a\n1\n"), {"z": "int64"})
