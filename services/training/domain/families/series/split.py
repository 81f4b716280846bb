"""Which rows of windows are the latest, series by series: those that judge a forecast, and that set its intervals."""

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array, is_number_list, is_numeric, normalize


def latest_rows(table: pa.Table, target: str, share: float) -> Array:
    """Return which rows are the last share of each series, in the order they stand in; of one series, the table's.

    Not the table's last rows where series stand one after another: these would be one of them, which nothing else then
    tells of. All series together give the rounded share, so that of short ones some give a row and others none.

    Windows beside each other hold the same steps, also across the cut: how many steps lie between them the columns do
    not say, so that no rows are left out there.

    Args:
        table: of windows.
        target: the column that is predicted.
        share: 0 to 1.
    """
    codes = _series(table, target)
    sizes = np.bincount(codes)
    counts = np.diff(np.round(np.cumsum(sizes) * share).astype(np.int64), prepend=0)
    grouped = np.argsort(codes, kind="stable")
    # How many rows of its series stand behind each.
    behind = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(len(codes))
    latest = np.zeros(len(codes), dtype=bool)
    latest[grouped] = behind < np.repeat(counts, sizes)
    return latest


def _series(table: pa.Table, target: str) -> Array:
    """Return (rows,) numbers of the series, in the order in which they come; zeros where no column tells them apart.

    The step `windows` puts the series' column before that of its times, which grow within each series. Where they grow
    over the whole table, too, its last rows are the latest of all series.
    """
    one, table = np.zeros(table.num_rows, dtype=np.int64), normalize(table)
    names = [name for name in table.column_names if name != target and not is_number_list(table.column(name).type)]
    if len(names) != 2:
        return one
    series, times = table.select(names).columns
    kind = times.type
    if series.null_count or times.null_count or not (is_numeric(kind) or pa.types.is_temporal(kind)):
        return one
    if pa.types.is_nested(series.type):
        return one
    codes = np.asarray(series.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)
    order = times.to_numpy()
    return codes if _grows(order, codes) and not _grows(order, one) else one


def _grows(order: Array, codes: Array) -> bool:
    """Return whether times grow from each row of a series to its next."""
    grouped = np.argsort(codes, kind="stable")
    is_same = np.diff(codes[grouped]) == 0
    return bool((order[grouped][1:] > order[grouped][:-1])[is_same].all())
