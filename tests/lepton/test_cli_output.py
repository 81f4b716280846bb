"""What `--json` prints is JSON with every digit, and tables leave missing values blank."""

import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.cli.output import records, show_table


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))))
def test_numbers_keep_all_digits(rows: list[tuple[int, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["i", "f"])
    assert [tuple(row.values()) for row in json.loads(json.dumps(records(frame), allow_nan=False))] == rows


def test_every_kind_of_value_is_json() -> None:
    frame = pd.DataFrame(
        {
            "id": pd.array([1111111111111111111, None], dtype="Int64"),
            "large": np.array([2**64 - 1, 1], dtype=np.uint64),
            "probability": np.array([0.1, np.nan], dtype=np.float32),
            "ratio": [1 / 3, math.inf],
            "flag": pd.array([True, None], dtype="boolean"),
            "text": ["None", None],
            "time": pd.Series([pd.Timestamp("2020-01-01T00:00:00.123456"), pd.NaT]),
            "day": [datetime.date(2020, 1, 1), None],
            "exact": pd.Series([Decimal("0.10"), None], dtype=object),
            "steps": pd.Series([np.array([0.5, np.nan]), [1]], dtype=object),
        }
    )
    first, second = json.loads(json.dumps(records(frame), allow_nan=False))
    assert first == {
        "id": 1111111111111111111,
        "large": 2**64 - 1,
        "probability": float(np.float32(0.1)),
        "ratio": 1 / 3,
        "flag": True,
        "text": "None",
        "time": "2020-01-01T00:00:00.123456",
        "day": "2020-01-01",
        "exact": "0.10",
        "steps": [0.5, None],
    }
    assert {name for name, value in second.items() if value is None} == set(frame) - {"large", "steps"}


def test_table_shows_whole_ids_and_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"id": pd.array([1111111111111111112, None], dtype="Int64"), "text": ["None", None]})
    show_table(frame, False)
    printed = capsys.readouterr().out
    assert "1111111111111111112" in printed
    assert printed.count("None") == 1
    assert "<NA>" not in printed
