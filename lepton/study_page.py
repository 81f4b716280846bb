"""A study's plots as one HTML page of its own."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from lepton.html_pages import document, figure
from lepton.plots import BLUE, ORANGE, Plot, bar_list, span

if TYPE_CHECKING:
    from lepton.studies import StudyResults


def study_page(found: "StudyResults") -> str:
    """Return the page."""
    return document(f"Study of {found.version.ref}", study_body(found))


def study_body(found: "StudyResults") -> str:
    """Return the page's inside."""
    trials = found.trials()
    values = [None if math.isnan(value) else value for value in trials["value"].astype(float)]
    best = [None if math.isnan(value) else value for value in trials["best_value"].astype(float)]
    table = str(trials.to_html(float_format=lambda value: f"{value:.4g}", border=0, na_rep=""))
    parts = [
        f"<h1>Study of {escape(found.version.ref)}</h1><p>{len(trials)} trials; {found.best_trial} was registered: "
        f"{escape(found.metric)} {float(trials['value'].to_dict()[found.best_trial]):.4g} on the rows that trials are "
        "judged by.</p>",
        f"<p>{escape(found.note)}</p>" if found.note else "",
        f"<h2>History</h2>{_history([int(number) for number in trials.index], values, best, found.metric)}",
        f"<h2>Importance</h2>{_importance(sorted(found.importance.items(), key=lambda item: -item[1]))}",
        f"<h2>Trials</h2>{table}",
    ]
    return "".join(parts)


def _history(numbers: Sequence[int], values: Sequence[float | None], best: Sequence[float | None], metric: str) -> str:
    known = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
    if not known:
        return "<p>no trial ended well</p>"
    so_far = [(number, value) for number, value in zip(numbers, best, strict=True) if value is not None]
    ends = (min(numbers) - 0.5, max(numbers) + 0.5)
    plot = Plot(ends, span(value for _, value in known), "trial", metric, width=640, height=300)
    plot.line(so_far, ORANGE).dots(known, BLUE, [f"trial {number}: {value:.4g}" for number, value in known])
    return figure(plot.svg(f"{metric} by trial"), "A dot a trial; the line is the best so far.")


def _importance(items: Sequence[tuple[str, float]]) -> str:
    if not items:
        return "<p>too few trials to tell</p>"
    drawing = bar_list(items, "importance of each hyperparameter")
    return figure(drawing, "How much of the difference between trials each hyperparameter explains (PED-ANOVA).")
