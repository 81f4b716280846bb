"""A later table is read by the types that training decided; unknown categories are counted without being shown."""

import pyarrow as pa

from services.training.domain.families.frame import Column
from services.training.domain.families.reading_types import types_by_datatype, types_to_read
from services.training.domain.families.target import Target
from services.training.domain.families.unknown_categories import UnknownCategories, unknown_categories

TEXT = Column("code", "categorical", "BYTES", True, ("007", "A12"))
COLUMNS = (
    TEXT,
    Column("size", "numeric", "FP64", True),
    Column("count", "numeric", "INT64", False),
    Column("is_new", "boolean", "FP64", True),
    Column("day", "temporal", "INT64", False),
)
LABELS = Target("y", "binary", ("0", "1"), "BYTES")


def test_texts_stay_texts_and_texts_become_what_training_had() -> None:
    stored = {"code": "int64", "size": "string", "count": "string", "is_new": "string", "day": "string", "y": "bool"}
    assert types_to_read(stored, COLUMNS, LABELS) == {
        "code": "string",
        "size": "double",
        "count": "int64",
        "is_new": "bool",
        "day": "timestamp[us]",
        "y": "string",
    }


def test_what_is_stored_as_training_had_it_is_read_as_it_is() -> None:
    stored = {
        "code": "string",
        "size": "int64",
        "count": "double",
        "is_new": "bool",
        "day": "date32[day]",
        "z": "int64",
    }
    assert types_to_read(stored, COLUMNS, None) == {}
    assert types_to_read({"y": "int64"}, COLUMNS, Target("y", "regression", (), "FP64")) == {}
    assert types_to_read({"y": "list<item: double>"}, (), Target("y", "forecasting", (), "FP32", horizon=2)) == {}


def test_a_model_made_elsewhere_reads_texts_as_texts() -> None:
    stored = {"a": "bool", "b": "string", "c": "int64"}
    assert types_by_datatype(stored, {"a": "BYTES", "b": "FP32", "c": "INT64"}) == {"a": "string", "b": "double"}


def test_unknown_categories_are_counted() -> None:
    table = pa.table({"code": ["007", "7", None, "x", ""], "size": [1.0] * 5})
    assert unknown_categories((TEXT, COLUMNS[1]), table) == [UnknownCategories("code", 2, 5)]
    assert unknown_categories((TEXT,), table.slice(0, 1)) == []
    text = UnknownCategories("code", 2, 5).to_text()
    assert text.startswith("40% of 'code' are unknown categories (2 of 5 rows)")
