"""The steps of a recipe, for `Dataset.transform`.

Where columns are wanted, one name is a list of that name. A wrong argument raises InvalidArgument.
"""

from collections.abc import Iterable, Mapping

from lepton.arguments import build, to_mapping, to_name, to_names, type_name
from lepton.v1 import data_pb2


def drop_missing(columns: str | Iterable[str] = ()) -> data_pb2.Step:
    """Drop rows with missing values in some columns, or in any."""
    return data_pb2.Step(drop_missing=data_pb2.DropMissing(columns=to_names(columns)))


def fill_missing(values: Mapping[str, object]) -> data_pb2.Step:
    """Fill missing values: value by column."""
    texts = {name: str(value) for name, value in to_mapping(values, "values").items()}
    return data_pb2.Step(fill_missing=data_pb2.FillMissing(values=texts))


def drop_columns(columns: str | Iterable[str]) -> data_pb2.Step:
    """Drop columns."""
    return data_pb2.Step(drop_columns=data_pb2.DropColumns(columns=to_names(columns)))


def drop_duplicates(columns: str | Iterable[str] = ()) -> data_pb2.Step:
    """Drop repeated rows, keeping the first, by some columns or all."""
    return data_pb2.Step(drop_duplicates=data_pb2.DropDuplicates(columns=to_names(columns)))


def rename(names: Mapping[str, str]) -> data_pb2.Step:
    """Rename columns: new name by old name."""
    return data_pb2.Step(rename=data_pb2.Rename(names=_by_name(names, "names")))


def cast(types: Mapping[str, object]) -> data_pb2.Step:
    """Change types: Arrow type name (int64, double, string, bool, ...), or type of Python or NumPy, by column."""
    named = {name: type_name(value) for name, value in to_mapping(types, "types").items()}
    return data_pb2.Step(cast=data_pb2.Cast(types=_by_name(named, "types")))


def parse_dates(column: str, format: str = "", *, zone: str = "") -> data_pb2.Step:
    """Read a column of texts as times.

    Args:
        column: of texts.
        format: strptime's, such as "%d.%m.%Y %H:%M"; by default ISO 8601, or a numeric date that only one order of day
            and month fits.
        zone: of texts without one, such as "Europe/Berlin"; the times are stored as UTC.
    """
    return build(data_pb2.Step, parse_dates=build(data_pb2.ParseDates, column=column, format=format, zone=zone))


def filter(expression: str) -> data_pb2.Step:
    """Keep rows for which an expression such as `age >= 18 and job != 'none'` is true."""
    return data_pb2.Step(filter=build(data_pb2.Filter, expression=expression))


def sample(*, rows: int = 0, fraction: float = 0.0, seed: int = 0) -> data_pb2.Step:
    """Keep a seeded sample: so many rows, or a share of them."""
    return data_pb2.Step(sample=build(data_pb2.Sample, rows=rows, fraction=fraction, seed=seed))


def windows(
    order: str,
    channels: str | Iterable[str],
    length: int,
    *,
    horizon: int = 0,
    target: str = "",
    series: str = "",
    min_length: int = 0,
    stride: int = 1,
) -> data_pb2.Step:
    """Make windows of series, a row each, whose channels are lists of the last steps.

    Args:
        order: the column of times or numbers, by which the rows of each series are in order.
        channels: the numeric columns whose values become lists.
        length: most steps of a window.
        horizon: steps to forecast: the target's next values become the list `<target>_next`; 0 for none.
        target: the column to forecast, or, without a horizon, whose value at the window's end is its label.
        series: the column that tells series apart; windows never cross from one into another.
        min_length: least steps, for windows at the start of a series; 0 for as many as the most.
        stride: steps from one window of a series to the next.
    """
    made = build(
        data_pb2.Windows,
        series=to_name(series, "series"),
        order=to_name(order, "order"),
        channels=to_names(channels, "channels"),
        length=length,
        min_length=min_length,
        horizon=horizon,
        stride=stride,
        target=to_name(target, "target"),
    )
    return data_pb2.Step(windows=made)


def split(test_fraction: float, *, seed: int = 0, stratify: str | None = "") -> data_pb2.Step:
    """Cut in two by a seeded draw; may stand only last."""
    made = build(data_pb2.Split, test_fraction=test_fraction, seed=seed, stratify=to_name(stratify, "stratify"))
    return data_pb2.Step(split=made)


def _by_name(values: object, argument: str) -> dict[str, str]:
    return {name: to_name(value, argument) for name, value in to_mapping(values, argument).items()}
