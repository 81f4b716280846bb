"""Curves of a job in a terminal."""

import io
import itertools
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lepton.curves import follow, seconds_left, sparkline
from lepton.jobs import Update

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_falling_loss_falls() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"


def test_a_metric_that_stays_lies_in_the_middle_and_none_is_nothing() -> None:
    assert sparkline([3.0, 3.0]) == "▅▅"
    assert sparkline([]) == ""


def test_steps_that_share_a_bar_count_by_their_mean() -> None:
    assert sparkline([0, 0, 4, 10, 7, 7], width=3) == "▁██"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 60))
def test_a_line_is_never_wider_than_it_may(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(width, len(values))


def test_what_is_left_follows_from_the_pace_so_far() -> None:
    assert seconds_left(0.25, 30.0) == 90.0
    assert seconds_left(0.0, 30.0) is None


def test_a_terminal_shows_each_metric_with_its_latest_value_and_the_time_left() -> None:
    clock = itertools.count(0.0, 10.0)
    updates = [
        Update(1, "QUEUED", 0.0, "queued", 0, {}, NOW),
        Update(2, "RUNNING", 0.1, "epoch 1 of 3", 1, {"loss": 0.9}, NOW),
        Update(3, "RUNNING", 0.5, "epoch 2 of 3", 2, {"loss": 0.4, "validation_loss": 0.5}, NOW, 300 << 20),
    ]
    terminal = io.StringIO()
    follow("job-1", updates, Console(file=terminal, force_terminal=True, width=160), lambda: next(clock))
    shown = terminal.getvalue()
    assert "job-1  RUNNING  50% in 0:20, about 0:20 left  300 MiB  epoch 2 of 3" in shown
    assert "█▁" in shown
    assert "least 0.4, most 0.9" in shown
    assert "validation_loss" in shown
