"""What an import decided of its columns, in sentences: the user may want it otherwise."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from services.data.domain.import_options import KnownColumn
from services.data.domain.parsing.columns import ColumnInference, ColumnReading, ColumnRule
from services.data.domain.parsing.missing import NA, NONE

_NAMED = 20
_REMEDIES = {
    "leading zeros": "types={column: 'int64'} reads numbers",
    "more digits than a number holds": "types={column: 'double'} rounds them",
    "dates whose day and month are ambiguous": "dates={column: '%d/%m/%Y'} reads times",
    "a decimal comma": "decimal=',' reads numbers",
}
Columns = Iterable[tuple[str, ColumnRule, ColumnInference, ColumnReading]]


def column_notes(columns: Columns, known: Mapping[str, KnownColumn]) -> list[str]:
    """Return what the user should know of how columns were read, one sentence each.

    Args:
        columns: name, rule, inference and reading of each.
        known: columns of the version whose types were kept where values fit.
    """
    found = list(columns)
    return [*_kept_as_text(found), *_of_missing(found), *_of_known(found, known)]


def _kept_as_text(columns: Columns) -> Iterable[str]:
    reasons: dict[str, list[str]] = {}
    for name, rule, inference, reading in columns:
        if inference.why_text and rule.given is None and rule.known is None and pa.types.is_string(reading.kind):
            reasons.setdefault(inference.why_text, []).append(name)
    for reason, names in reasons.items():
        yield f"kept as text for {reason}: {_listed(names)} ({_REMEDIES[reason]})"


def _of_missing(columns: Columns) -> Iterable[str]:
    missing: dict[str, int] = {}
    given: dict[str, int] = {}
    kept: dict[str, list[str]] = {}
    for name, rule, inference, reading in columns:
        texts = inference.texts_kept() if pa.types.is_string(reading.kind) else []
        for text in texts:
            if inference.soft_rows[text]:
                kept.setdefault(text, []).append(f"{name} ({inference.soft_rows[text]:,} values)")
        left = inference.missing_rows - sum(inference.soft_rows[text] for text in texts)
        if left:
            (missing if rule.missing is None else given)[name] = left
    for text, names in kept.items():
        why = {NONE: "a column of texts", NA: "a column of country codes"}[text]
        yield f"{text!r} is a text, not a missing value, in {why}: {_listed(names)} (missing=[...] says otherwise)"
    if missing:
        counted = [f"{name} ({count:,})" for name, count in missing.items()]
        yield f"texts such as 'NA' are read as missing values: {_listed(counted)}"
    if given:
        counted = [f"{name} ({count:,})" for name, count in given.items()]
        yield f"missing values by the texts given for them, now or in the version before: {_listed(counted)}"


def _of_known(columns: Columns, known: Mapping[str, KnownColumn]) -> Iterable[str]:
    kept: dict[tuple[str, str], list[str]] = {}
    for name, rule, inference, reading in columns:
        if rule.known is None or rule.given is not None:
            continue
        origin = known[name].origin
        if reading.kind != rule.known:
            row = inference.misfit_row
            why = "" if row is None else f": the value in data row {row + 1:,} does not fit"
            yield f"column {name!r} is {reading.kind} here and {rule.known} in {origin}{why}"
        elif inference.looks_otherwise and (pa.types.is_string(reading.kind) or inference.why_text):
            kept.setdefault((str(reading.kind), origin), []).append(name)
    for (kind, origin), names in kept.items():
        yield f"read as {kind}, as in {origin}: {_listed(names)} (types={{column: ...}} says otherwise)"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
