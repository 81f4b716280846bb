"""Any text gives an id that the platform takes."""

import pytest

from lepton import names


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("German Credit.csv", "german-credit-csv"), ("Ünïcode!", "n-code"), ("___", "data"), ("a" * 99, "a" * 63)],
)
def test_any_text_gives_an_id(text: str, wanted: str) -> None:
    assert names.to_id(text) == wanted
