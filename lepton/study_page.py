"""A study's plots as one HTML page of its own: inline SVG, no script, nothing fetched."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton.studies import StudyResults

_WIDTH, _HEIGHT, _EDGE, _BAR = 640, 280, 56, 22
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;max-width:60em;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}svg text{font-size:12px;fill:#555}"
)


def study_page(found: "StudyResults") -> str:
    """Return the page."""
    trials = found.trials()
    values = [None if math.isnan(value) else value for value in trials["value"].astype(float)]
    best = [None if math.isnan(value) else value for value in trials["best_value"].astype(float)]
    table = str(trials.to_html(float_format=lambda value: f"{value:.4g}", border=0, na_rep=""))
    title = f"Study of {escape(found.version.ref)}"
    parts = [
        f"<h1>{title}</h1><p>{len(trials)} trials; the best, {found.best_trial}, has {escape(found.metric)} "
        f"{float(trials['value'].to_dict()[found.best_trial]):.4g} on the rows that trials are judged by.</p>",
        f"<h2>History</h2>{_history([int(number) for number in trials.index], values, best, found.metric)}",
        f"<h2>Importance</h2>{_importance(sorted(found.importance.items(), key=lambda item: -item[1]))}",
        f"<h2>Trials</h2>{table}",
    ]
    head = f"<meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>"


def _history(numbers: Sequence[int], values: Sequence[float | None], best: Sequence[float | None], metric: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "<p>no trial ended well</p>"
    low, high = min(known), max(known)
    last = max(numbers)

    def x(number: int) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * (number - 1) / max(last - 1, 1)

    def y(value: float) -> float:
        return _HEIGHT - _EDGE / 2 - (_HEIGHT - _EDGE) * (value - low) / ((high - low) or 1.0)

    dots = "".join(
        f"<circle cx='{x(number):.1f}' cy='{y(value):.1f}' r='4' fill='#4477aa'>"
        f"<title>trial {number}: {value:.4g}</title></circle>"
        for number, value in zip(numbers, values, strict=True)
        if value is not None
    )
    line = " ".join(
        f"{x(number):.1f},{y(value):.1f}" for number, value in zip(numbers, best, strict=True) if value is not None
    )
    axes = (
        f"<text x='4' y='{y(high) + 4:.1f}'>{high:.4g}</text><text x='4' y='{y(low) + 4:.1f}'>{low:.4g}</text>"
        f"<text x='{_EDGE}' y='{_HEIGHT - 2}'>trial 1</text><text x='{_WIDTH - _EDGE}' y='{_HEIGHT - 2}'>{last}</text>"
    )
    drawn = f"<polyline points='{line}' fill='none' stroke='#cc6677' stroke-width='2'/>{dots}{axes}"
    return f"<svg role='img' aria-label='{escape(metric)} by trial' width='{_WIDTH}' height='{_HEIGHT}'>{drawn}</svg>"


def _importance(items: Sequence[tuple[str, float]]) -> str:
    if not items:
        return "<p>too few trials to tell</p>"
    most = max(share for _, share in items) or 1.0
    bars = "".join(
        f"<text x='0' y='{place * _BAR + 15}'>{escape(name)}</text>"
        f"<rect x='160' y='{place * _BAR + 3}' width='{360 * share / most:.1f}' height='{_BAR - 6}' fill='#4477aa'/>"
        f"<text x='{166 + 360 * share / most:.1f}' y='{place * _BAR + 15}'>{share:.0%}</text>"
        for place, (name, share) in enumerate(items)
    )
    return f"<svg role='img' aria-label='importance' width='{_WIDTH}' height='{len(items) * _BAR}'>{bars}</svg>"
