"""Pages need nothing else, escape what is in the rows, and draw what was measured."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lepton.plots import Plot, number, span, ticks
from lepton.reports import Report
from lepton.v1 import training_pb2

EVIL = "<script>alert('x')</script>"
CURVE: dict[str, Any] = {
    "label": EVIL,
    "rows": 40,
    "roc_auc": 0.8125,
    "roc_auc_low": 0.7,
    "roc_auc_high": 0.9,
    "average_precision": 0.7,
    "ks": 0.5,
    "brier": 0.2,
    "calibration_error": 0.03,
    "roc": [[0, 0], [0.2, 0.7], [1, 1]],
    "precision_recall": [[0.1, 1], [1, 0.4]],
    "calibration": [[0.2, 0.1, 0.05, 0.3, 50], [0.7, 0.8, 0.6, 0.9, 50]],
    "thresholds": [[0.5, 0.4, 0.7, 0.6, 0.2]],
    "histogram": [[1] * 20, [2] * 20],
}
SLICES = [
    {"column": "age", "value": EVIL, "rows": 31, "metrics": {"accuracy": 0.5, "log_loss": 1.0}, "excess": 4.2},
    {"column": "age", "value": "above 60", "rows": 40, "metrics": {"accuracy": 0.6, "log_loss": 0.9}, "excess": 1.0},
]
BINARY: dict[str, Any] = {
    "format": 1,
    "task": "binary",
    "target": "y",
    "rows": 100,
    "metrics": {"accuracy": 0.75, "log_loss": 0.5},
    "labels": ["no", EVIL],
    "confusion": [[50, 10], [15, 25]],
    "classes": [{"label": "no", "rows": 60, "precision": 0.77, "recall": 0.83}],
    "curves": [CURVE],
    "residuals": None,
    "sliced_rows": 100,
    "slices": SLICES,
}
REGRESSION: dict[str, Any] = {
    **BINARY,
    "task": "regression",
    "metrics": {"r2": 0.9, "rmse": 2.0, "mae": 1.0},
    "labels": [],
    "confusion": [],
    "classes": [],
    "curves": [],
    "residuals": {
        "bias": 0.25,
        "quantiles": [[0.5, 1.0], [1.0, 9.0]],
        "points": [[1.0, 2.0], [3.0, 2.5]],
        "groups": [[1.0, 2.0, 10]],
        "edges": [-1.0, 0.0, 1.0],
        "counts": [4, 6],
    },
    "slices": [],
}
SEVERAL: dict[str, Any] = {**BINARY, "task": "multiclass", "curves": [CURVE, {**CURVE, "label": "other"}]}


class _Outside(HTMLParser):
    """Collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attributes}
        if tag in ("script", "link", "iframe", "img", "object") or names & {"src", "href", "onload", "xlink:href"}:
            self.found.append(tag)
        if tag not in ("meta", "polyline", "circle", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("polyline", "circle", "rect", "line"):
            assert self.open.pop() == tag


def _report(content: dict[str, Any]) -> Report:
    job = training_pb2.Job(name="job-1", version="credit@3", warnings=[f"class {EVIL} is rare"])
    job.spec.kind = training_pb2.JOB_KIND_FIT
    job.spec.dataset = "credit@1"
    job.spec.hyperparameters["c"] = "0.5"
    return Report(job, json.dumps(content).encode())


@pytest.mark.parametrize("content", [BINARY, SEVERAL, REGRESSION], ids=lambda content: content["task"])
def test_page_opens_offline_whatever_stands_in_the_rows(content: dict[str, Any], tmp_path: Path) -> None:
    report = _report(content)
    for page in (report.save(tmp_path / "report.html").read_text(encoding="utf-8"), report._repr_html_()):
        outside = _Outside()
        outside.feed(page)
        assert (outside.found, outside.open) == ([], [])
        assert "http" not in page
        assert "url(" not in page
        assert "Evaluation of credit@3" in page
        assert "NaN" not in page


def test_page_says_what_was_measured() -> None:
    page = _report(BINARY).to_html()
    for text in ("Area 0.812 (95% interval 0.700 to 0.900", "Gini", "0.625", "▲ +4.2", "+1.0", "50<small>83%</small>"):
        assert text in page
    assert "▲ +1.0" not in page
    assert "rows held out of credit@1" in page
    regression = _report(REGRESSION).to_html()
    assert "the mean is 0.250" in regression
    assert "large enough to judge" in regression
    assert regression.count("<svg") == 3
    assert _report(SEVERAL).to_html().count("<svg") == 3


def test_slices_are_a_frame() -> None:
    frame = _report(BINARY).slices
    assert list(frame.columns) == ["column", "value", "rows", "accuracy", "log_loss", "excess"]
    assert frame["excess"].tolist() == [4.2, 1.0]
    assert _report(REGRESSION).slices.empty


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ((0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ((-3.0, 7.0), ["-2", "0", "2", "4", "6"]),
        ((0.0, 62_000.0), ["0", "20k", "40k", "60k"]),
        ((1e-4, 6e-4), ["0.0001", "0.0002", "0.0003", "0.0004", "0.0005", "0.0006"]),
    ],
)
def test_ticks_are_round_numbers(ends: tuple[float, float], found: list[str]) -> None:
    assert [number(tick) for tick in ticks(*ends)] == found


def test_what_lies_outside_the_axes_is_drawn_at_their_edge_and_one_value_has_an_axis() -> None:
    drawn = Plot((0, 1), (0, 1)).dots([(2, 2), (0.5, -1)]).svg("dots")
    places = re.findall(r"cx='([\d.]+)' cy='([\d.]+)'", drawn)
    assert places == [("386.0", "12.0"), ("221.0", "276.0")]
    low, high = span([5.0, 5.0])
    assert low < 5.0 < high
    assert "<line" in Plot(span([]), (3.0, 3.0)).svg("nothing")
