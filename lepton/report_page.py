"""An evaluation report as one HTML page: what a model is, how well it does, and where it does not."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lepton.html_pages import figure, table, tiles
from lepton.plots import BLUE, COLORS, GREY, INK, ORANGE, Plot, span
from lepton.reports import Report
from lepton.v1 import training_pb2

_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "log_loss": "log loss",
    "roc_auc": "ROC AUC",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "mean residual",
    "observed": "observed share",
    "predicted": "predicted share",
}
_HARDLY_CHANCE = 3.0
_UNIT = (0.0, 1.0)

_Curve = Mapping[str, Any]


def report_title(report: Report) -> str:
    """Return what the page is of."""
    spec = report.job.spec
    return f"Evaluation of {report.job.version or spec.base_version or spec.model or report.job.name}"


def report_body(report: Report) -> str:
    """Return the page's inside."""
    content = report.content
    parts = [
        f"<h1>{escape(report_title(report))}</h1>",
        f"<p class='note'>{escape(_what(report))}</p>",
        tiles(_key_figures(report)),
        *(f"<p class='warning'>{escape(text)}</p>" for text in report.job.warnings),
    ]
    if content["task"] == "regression":
        parts.append(_residuals(content))
    else:
        parts += [_confusion(content), _classes(content), *_curves(content)]
    return "".join([*parts, _slices(content), _provenance(report.job)])


def _what(report: Report) -> str:
    job, content = report.job, report.content
    kind = training_pb2.JobKind.Name(job.spec.kind).removeprefix("JOB_KIND_").replace("_", " ").lower()
    scored = job.evaluation.dataset or job.spec.evaluation_dataset or job.spec.dataset
    is_held_out = job.spec.kind != training_pb2.JOB_KIND_EVALUATE and scored == job.spec.dataset
    ended = f" on {job.end_time.ToDatetime():%Y-%m-%d %H:%M} UTC" if job.HasField("end_time") else ""
    family = f"{job.spec.family}, " if job.spec.family else ""
    rows = f"scored on {content['rows']:,} rows {'held out ' if is_held_out else ''}of {scored}"
    return f"{family}{content['task']}, target {content['target']}; {rows}. Job {job.name} ({kind}){ended}."


def _key_figures(report: Report) -> Iterable[tuple[str, str]]:
    yield "rows", f"{report.content['rows']:,}"
    for name, value in report.metrics.items():
        yield _NAMES.get(name, name), _number(value)
    if report.task == "binary":
        for curve in report.content["curves"]:
            yield "Gini", _number(2 * curve["roc_auc"] - 1)
            yield "KS", _number(curve["ks"])
            yield "Brier score", _number(curve["brier"])


def _confusion(content: Mapping[str, Any]) -> str:
    labels, counts = content["labels"], content["confusion"]
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    lines = "".join(
        f"<tr><th class='text'>{escape(label)}</th>{''.join(_cell(count, sum(row)) for count in row)}</tr>"
        for label, row in zip(labels, counts, strict=True)
    )
    return (
        "<h2>Confusion matrix</h2><p class='note'>Truth in rows, prediction in columns; the share is of the row. The "
        "predicted class is the most probable one.</p>"
        f"<table class='matrix'><thead><tr><th class='text'>truth \\ prediction</th>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def _cell(count: int, total: int) -> str:
    share = count / total if total else 0.0
    ink = "#fff" if share > 0.55 else "#1b2733"
    style = f"background:rgba(43,95,168,{0.04 + 0.86 * share:.2f});color:{ink}"
    return f"<td style='{style}'>{count:,}<small>{share:.0%}</small></td>"


def _classes(content: Mapping[str, Any]) -> str:
    rows = [
        (found["label"], f"{found['rows']:,}", _number(found["precision"]), _number(found["recall"]))
        for found in content["classes"]
    ]
    return table(("class", "rows", "precision", "recall"), rows)


def _curves(content: Mapping[str, Any]) -> Iterable[str]:
    curves = content["curves"]
    if not curves:
        yield "<p class='note'>Without probabilities, or with one class alone, there are no curves.</p>"
        return
    is_binary = content["task"] == "binary"
    of = f"of class {curves[0]['label']}" if is_binary else "of each class against the rest"
    names = {place: "" if is_binary else curve["label"] for place, curve in enumerate(curves)}
    yield f"<section><h2>ROC and precision-recall {escape(of)}</h2><div class='side'>"
    yield figure(_roc(curves, names), _roc_caption(curves, is_binary), "ROC")
    yield figure(_precision_recall(curves, content["rows"]), _recall_caption(curves, is_binary), "Precision-recall")
    yield f"</div></section><section><h2>Calibration {escape(of)}</h2><div class='side'>"
    yield figure(
        _calibration(curves, names),
        "Rows in up to ten groups of as many each, by probability: the share that was of the class"
        f"{', with its 95% interval,' if is_binary else ''} against the mean probability. On the dashed line "
        "probabilities can be taken at their word; mean distance "
        f"{_number(sum(curve['calibration_error'] for curve in curves) / len(curves))}.",
        "Reliability",
    )
    if is_binary:
        yield figure(_histogram(curves[0]), "Rows by their probability, in twentieths.", "Probabilities")
    yield "</div></section>"
    yield _thresholds(curves[0]) if is_binary else _by_class(curves)


def _roc(curves: Sequence[_Curve], names: Mapping[int, str]) -> str:
    plot = Plot(_UNIT, _UNIT, "false positive rate", "true positive rate", legend="bottom right")
    plot.line([(0, 0), (1, 1)], GREY, dashed=True)
    for place, curve in enumerate(curves):
        plot.line(curve["roc"], COLORS[place % len(COLORS)], "" if len(curves) == 1 else _short(names[place]))
    return plot.svg("ROC curve")


def _roc_caption(curves: Sequence[_Curve], is_binary: bool) -> str:
    if not is_binary:
        return "The dashed line is a guess by chance. Areas stand in the table below."
    curve = curves[0]
    ends = f"95% interval {_number(curve['roc_auc_low'])} to {_number(curve['roc_auc_high'])}, Hanley and McNeil"
    return f"Area {_number(curve['roc_auc'])} ({ends}); the dashed line is a guess by chance."


def _precision_recall(curves: Sequence[_Curve], rows: int) -> str:
    plot = Plot(_UNIT, _UNIT, "recall", "precision")
    if len(curves) == 1:
        share = curves[0]["rows"] / rows
        plot.line([(0, share), (1, share)], GREY, dashed=True)
    for place, curve in enumerate(curves):
        plot.line(curve["precision_recall"], COLORS[place % len(COLORS)])
    return plot.svg("precision-recall curve")


def _recall_caption(curves: Sequence[_Curve], is_binary: bool) -> str:
    if not is_binary:
        return "Colours as in the ROC curves."
    return f"Average precision {_number(curves[0]['average_precision'])}; the dashed line is the share of the class."


def _calibration(curves: Sequence[_Curve], names: Mapping[int, str]) -> str:
    plot = Plot(_UNIT, _UNIT, "mean probability", "observed share")
    plot.line([(0, 0), (1, 1)], GREY, dashed=True)
    for place, curve in enumerate(curves):
        color, bins = COLORS[place % len(COLORS)], curve["calibration"]
        if len(curves) == 1:
            plot.intervals([(mean, low, high) for mean, _, low, high, _ in bins], color)
        points = [(mean, share) for mean, share, *_ in bins]
        titles = [
            f"{names[place]} {share:.3f} of {rows:,.0f} rows, said {mean:.3f}" for mean, share, _, _, rows in bins
        ]
        plot.line(points, color).dots(points, color, [title.strip() for title in titles], radius=3)
    return plot.svg("reliability diagram")


def _histogram(curve: _Curve) -> str:
    rest, own = curve["histogram"]
    width = 1 / len(own)
    most = max([*rest, *own, 1])
    plot = Plot(_UNIT, (0, most * 1.25), "probability", "rows")
    for counts, color, label in ((rest, GREY, "the rest"), (own, BLUE, curve["label"])):
        plot.bars(
            [(place * width, (place + 1) * width, count) for place, count in enumerate(counts)], color, _short(label)
        )
    return plot.svg("histogram of probabilities")


def _thresholds(curve: _Curve) -> str:
    rows = [
        (f"{threshold:.1f}", f"{taken:.1%}", _number(precision), _number(recall), _number(false))
        for threshold, taken, precision, recall, false in curve["thresholds"]
    ]
    header = ("threshold", "rows at or above", "precision", "recall", "false positive rate")
    note = f"What becomes of rows if those of class {escape(curve['label'])} are taken from a probability on."
    return f"<h2>Thresholds</h2><p class='note'>{note}</p>{table(header, rows, texts=0)}"


def _by_class(curves: Sequence[_Curve]) -> str:
    rows = [
        (
            curve["label"],
            f"{curve['rows']:,}",
            _number(curve["roc_auc"]),
            f"{_number(curve['roc_auc_low'])} to {_number(curve['roc_auc_high'])}",
            _number(curve["average_precision"]),
            _number(curve["brier"]),
            _number(curve["calibration_error"]),
        )
        for curve in curves
    ]
    header = ("class", "rows", "ROC AUC", "95% interval", "average precision", "Brier score", "calibration error")
    return table(header, rows)


def _residuals(content: Mapping[str, Any]) -> str:
    found = content["residuals"]
    points, groups = found["points"], found["groups"]
    both = span(value for point in points for value in point)
    fit = Plot(both, both, "prediction", f"truth: {content['target']}")
    fit.dots(points, BLUE, radius=2).line([both[:1] * 2, both[1:] * 2], GREY, dashed=True)
    fit.line([group[:2] for group in groups], ORANGE, "mean of a tenth of the rows")
    errors = [(value, value - truth) for value, truth in points]
    around = Plot(span(x for x, _ in errors), span([*(y for _, y in errors), 0.0]), "prediction", "residual")
    ends = span(x for x, _ in errors)
    around.dots(errors, BLUE, radius=2).line([(ends[0], 0), (ends[1], 0)], INK, dashed=True)
    edges, counts = found["edges"], found["counts"]
    bars = Plot((edges[0], edges[-1]), (0, max(counts) * 1.08), "residual", "rows", width=640, height=260)
    bars.bars(zip(edges[:-1], edges[1:], counts, strict=True))
    shares = [(f"{share:.0%}", _number(value)) for share, value in found["quantiles"]]
    drawn = "" if content["rows"] <= len(points) else f" {len(points):,} rows, drawn evenly."
    return (
        "<h2>Residuals</h2><p class='note'>Prediction minus truth, in the target's unit; the mean is "
        f"{_number(found['bias'])}.</p><div class='side'>"
        + figure(
            fit.svg("predicted against actual"),
            f"On the dashed line a prediction is right.{drawn}",
            "Predicted and actual",
        )
        + figure(
            around.svg("residual by prediction"), f"No pattern should be left here.{drawn}", "Residual by prediction"
        )
        + "</div>"
        + figure(
            bars.svg("histogram of residuals"), "What lies far outside is in the first and last bar.", "Distribution"
        )
        + table(("share of rows", "absolute residual at most"), shares)
    )


def _slices(content: Mapping[str, Any]) -> str:
    found = content["slices"]
    if not found:
        return (
            "<h2>Slices</h2><p class='note'>No part of the rows by value of a column is large enough to judge: at "
            "least 30 rows and a hundredth of all.</p>"
        )
    drawn = f" {content['sliced_rows']:,} rows were looked at." if content["sliced_rows"] < content["rows"] else ""
    names = list(dict.fromkeys(name for part in found for name in part["metrics"]))
    rows = [("all rows", "", f"{content['rows']:,}", *(_maybe(content["metrics"], name) for name in names), "")]
    rows += [
        (
            part["column"],
            part["value"],
            f"{part['rows']:,}",
            *(_maybe(part["metrics"], name) for name in names),
            f"{'▲ ' if part['excess'] > _HARDLY_CHANCE else ''}{part['excess']:+.1f}",
        )
        for part in found
    ]
    header = ("column", "value", "rows", *(_NAMES.get(name, name) for name in names), "excess")
    return (
        "<h2>Slices</h2><p class='note'>Parts of the rows, by value or quartile of each column, in which the model "
        "does worst, the worst first. Excess is how much worse the loss is than on all other rows, in standard errors "
        f"of the difference; ▲ marks what is hardly chance (above 3).{drawn}</p>"
        + table(header, rows, texts=2, whole=True)
    )


def _provenance(job: training_pb2.Job) -> str:
    spec = job.spec
    settings = {name: json.loads(value) for name, value in sorted(spec.hyperparameters.items())}
    facts: list[tuple[str, str]] = [
        ("job", job.name),
        ("model", job.version or spec.base_version),
        ("trained from" if spec.kind == training_pb2.JOB_KIND_FINE_TUNE else "", spec.base_version),
        ("rows", spec.dataset),
        ("evaluated on", spec.evaluation_dataset or job.evaluation.dataset),
        ("seed", str(spec.seed) if spec.kind != training_pb2.JOB_KIND_EVALUATE else ""),
        ("worker", job.worker),
        ("peak memory", f"{job.usage.peak_memory_bytes / 2**20:,.0f} MiB" if job.usage.peak_memory_bytes else ""),
        ("computed", f"{job.usage.core_seconds:,.1f} core-seconds" if job.usage.core_seconds else ""),
        ("trace", job.traceparent.split("-")[1] if job.traceparent.count("-") == 3 else ""),
    ]
    facts += [(name, json.dumps(value, ensure_ascii=False)) for name, value in settings.items()]
    return "<h2>Provenance</h2>" + table(("", ""), [(name, value) for name, value in facts if name and value], texts=2)


def _maybe(metrics: Mapping[str, float], name: str) -> str:
    return _number(metrics[name]) if metrics.get(name) is not None else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"


def _short(label: str, most: int = 24) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"
