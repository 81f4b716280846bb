"""Any text gives an id that the platform takes, and another text another one."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton import names


@pytest.mark.parametrize(
    ("text", "wanted"), [("German Credit.csv", "german-credit-csv"), ("", "data"), ("a" * 63, "a" * 63)]
)
def test_plain_text_gives_a_plain_id(text: str, wanted: str) -> None:
    assert names.to_id(text) == wanted


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("客户", "ke-hu"),
        ("订单 2024", "ding-dan-2024"),
        ("Ünïcode!", "unicode"),
        ("données", "donnees"),
        ("клиенты", "klienty"),
        ("___", "data"),
        ("!?", "data"),
    ],
)
def test_other_text_gives_a_readable_id_that_no_other_text_gives(text: str, readable: str) -> None:
    assert re.fullmatch(f"{readable}-[0-9a-f]{{6}}", names.to_id(text))
    assert names.to_id(text) == names.to_id(text)
    assert names.to_id(text) != names.to_id(readable)


@settings(deadline=None)
@given(st.lists(st.text("客户课订单üéa🙂\ud800 ", min_size=1), min_size=2, unique=True))
def test_texts_beyond_ascii_never_share_an_id(texts: list[str]) -> None:
    other = [text for text in texts if not text.isascii()]
    ids = [names.to_id(text) for text in other]
    assert len(set(ids)) == len(other)
    assert all(re.fullmatch("[a-z0-9][a-z0-9_-]{0,62}", one) for one in ids)


def test_long_names_that_begin_alike_have_different_ids() -> None:
    first, second = (names.to_id("a" * 80 + end) for end in "xy")
    assert first != second
    assert len(first) == len(second) == 63
