"""Dates and times as a model's inputs take them: microseconds since 1970-01-01T00:00:00Z."""

from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(text: str) -> int:
    """Return a date, a time of day or both in ISO 8601 as microseconds; without a zone it is UTC.

    Raises:
        ValueError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        # A time of day lies on the first day.
        moment = datetime.combine(date(1970, 1, 1), time.fromisoformat(text))
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def is_moment(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds dates or times."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind))


def to_microseconds(column: pa.Array) -> pa.Array:
    """Return a column of dates or times as int64 microseconds, as training reads it.

    Raises:
        pa.ArrowInvalid: one is too far away for 64 bits.
    """
    kind = column.type
    if pa.types.is_time(kind):
        return column.cast(pa.time64("us"), safe=False).cast(pa.int64())
    if pa.types.is_timestamp(kind):
        # Finer units are cut; coarser ones must not overflow. A zone says how a moment is shown: stored is UTC.
        return column.cast(pa.timestamp("us", kind.tz), safe=kind.unit not in ("ns", "us")).cast(pa.int64())
    return column.cast(pa.timestamp("us")).cast(pa.int64())
