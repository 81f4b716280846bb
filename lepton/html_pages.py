"""Pages of HTML that need nothing else: styles inside, no script, nothing fetched; good to print."""

from collections.abc import Iterable, Sequence
from html import escape

# All below one class: in a notebook the page stands among other things, which are to stay as they are.
_STYLE = """
.lepton-page{font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;color:#1b2733;
 background:#fff;max-width:920px;margin:0 auto;padding:28px 32px}
.lepton-page h1{font-size:26px;line-height:1.2;margin:0 0 4px;font-weight:650}
.lepton-page h2{font-size:17px;margin:34px 0 6px;padding-bottom:5px;border-bottom:1px solid #d5dbe2;font-weight:650}
.lepton-page h3{font-size:14px;margin:0 0 4px;font-weight:600}
.lepton-page p{margin:4px 0 10px}
.lepton-page .note{color:#5a6774;font-size:13px;max-width:70em}
.lepton-page .tiles{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0 6px}
.lepton-page .tile{border:1px solid #d5dbe2;border-radius:6px;padding:8px 14px;min-width:96px}
.lepton-page .tile b{display:block;font-size:20px;font-weight:600;font-variant-numeric:tabular-nums}
.lepton-page .tile span{color:#5a6774;font-size:12px}
.lepton-page .warning{border-left:4px solid #c4572c;background:#fcf3ee;padding:7px 12px;margin:6px 0}
.lepton-page .side{display:flex;flex-wrap:wrap;gap:14px 28px}
.lepton-page .side>figure{flex:1 1 390px;max-width:460px}
.lepton-page figure{margin:8px 0;break-inside:avoid}
.lepton-page figcaption{color:#5a6774;font-size:12.5px}
.lepton-page table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;margin:6px 0}
.lepton-page th,.lepton-page td{padding:4px 11px;text-align:right;border:0;border-bottom:1px solid #e3e7ec;
 background:none}
.lepton-page th{font-weight:600;color:#3b4754;border-bottom:1px solid #b9c2cc}
.lepton-page th.text,.lepton-page td.text{text-align:left;min-width:118px;overflow-wrap:anywhere}
.lepton-page tr{break-inside:avoid}
.lepton-page tr.whole td{background:#f3f5f8;font-weight:600}
.lepton-page .matrix th:not(.text){text-align:center}
.lepton-page .matrix td{border:1px solid #fff;text-align:center;min-width:54px;padding:7px 9px}
.lepton-page .matrix td small{display:block;opacity:.75}
.lepton-page svg{max-width:100%;height:auto;display:block}
.lepton-page svg text{font-size:12px;fill:#5a6774;font-family:inherit}
.lepton-page svg text.label{fill:#3b4754}
.lepton-page svg line.grid{stroke:#e3e7ec;stroke-width:1}
@media print{.lepton-page{padding:0;max-width:none;font-size:12px;-webkit-print-color-adjust:exact;
 print-color-adjust:exact}.lepton-page h2{break-after:avoid}
 .lepton-page section{break-inside:avoid}.lepton-page th,.lepton-page td{padding:3px 7px;font-size:11.5px}
 .lepton-page .side{flex-wrap:nowrap}.lepton-page .side>figure{flex:1 1 0}}
"""
_PRINTED = "@page{size:A4;margin:16mm}body{margin:0;background:#fff}"


def document(title: str, body: str) -> str:
    """Return a page of its own.

    Args:
        title: plain text.
        body: HTML.
    """
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{escape(title)}</title>"
    head += f"<style>{_PRINTED}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{fragment(body)}</body></html>"


def fragment(body: str) -> str:
    """Return the page's inside with its styles, to stand in a notebook."""
    return f"<style>{_STYLE}</style><div class='lepton-page'>{body}</div>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1, whole: bool = False) -> str:
    """Return a table; every value is escaped.

    Args:
        header: plain texts.
        rows: of values.
        texts: how many columns, from the left, are texts and not numbers.
        whole: whether the first row stands for all the others, and is marked so.
    """
    head = "".join(f"<th{_kind(place, texts)}>{escape(name)}</th>" for place, name in enumerate(header))
    lines = []
    for line, row in enumerate(rows):
        cells = "".join(f"<td{_kind(place, texts)}>{escape(str(value))}</td>" for place, value in enumerate(row))
        lines.append(f"<tr class='whole'>{cells}</tr>" if whole and not line else f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def figure(drawing: str, caption: str, title: str = "") -> str:
    """Return a drawing with what it shows."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{head}{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Return names and values, large, side by side."""
    shown = "".join(
        f"<div class='tile'><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values
    )
    return f"<div class='tiles'>{shown}</div>"


def _kind(place: int, texts: int) -> str:
    return " class='text'" if place < texts else ""
