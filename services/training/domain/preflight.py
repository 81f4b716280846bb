"""What a table's schema and profile alone say against a job, found before it is queued and all at once.

Imports no library that trains: the service runs it. A job's child checks the rows themselves once more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.training.domain.families.catalog import find_family, wants_classes
from services.training.domain.families.output_names import OUTPUT_NAMES
from services.training.domain.problems import Problems

_LEAST_ROWS, _MOST_CLASSES, _LEAST_CLASS_ROWS = 2, 1_000, 2
# Up to here the profile counts different values exactly.
_EXACT_DISTINCT = 10_000
_INTERVAL_NAMES = ("lower", "upper")
_TEXTS = ("string", "large_string")


@dataclass(frozen=True)
class TableColumn:
    """One column of a dataset version, as its schema and profile have it.

    Args:
        name: in the table.
        arrow_type: Arrow's own name for its type.
        missing: rows without a value.
        distinct: different values, approximate above 10,000.
        top: rows of each of the most frequent values, by the value as text; empty for numbers.
    """

    name: str
    arrow_type: str
    missing: int
    distinct: int
    top: Mapping[str, int]

    @property
    def is_number(self) -> bool:
        """Whether it holds integers or fractions."""
        return self.arrow_type.startswith(("int", "uint", "float", "double", "halffloat", "decimal"))

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return self.arrow_type in _TEXTS

    @property
    def is_series(self) -> bool:
        """Whether it holds lists of numbers."""
        return self.arrow_type.startswith("list<")

    @property
    def is_readable(self) -> bool:
        """Whether the families of columns read it."""
        is_moment = self.arrow_type.startswith(("timestamp", "date", "time", "duration"))
        return self.is_number or self.is_text or is_moment or self.arrow_type in ("bool", "null")


@dataclass(frozen=True)
class TableFacts:
    """What is known of a dataset version without reading its rows.

    Args:
        ref: name@number.
        rows: how many.
        columns: in order.
    """

    ref: str
    rows: int
    columns: Sequence[TableColumn]

    def find(self, name: str) -> TableColumn | None:
        """Return a column; None where there is none."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class Learning:
    """What is to be learned.

    Args:
        family: its name.
        target: the column to predict.
        settings: hyperparameters, resolved.
        handle_unknown: ignore or error.
    """

    family: str
    target: str
    settings: Mapping[str, object]
    handle_unknown: str


def check_learning(table: TableFacts, learning: Learning, problems: Problems) -> None:
    """Record what keeps a family from learning from a table."""
    inputs = [column for column in table.columns if column.name != learning.target]
    _check_target(table, learning, problems)
    reads = find_family(learning.family).reads
    if reads == "columns":
        _check_columns(table, inputs, learning, problems)
    elif reads == "series":
        _check_series(inputs, learning, problems)
    else:
        _check_texts(inputs, learning, problems)


def check_judging(
    table: TableFacts, target: str, inputs: Collection[str], field: str, problems: Problems, reader: str
) -> None:
    """Record what keeps rows from judging a model.

    Args:
        table: the rows.
        target: the column that is predicted.
        inputs: the columns that the model reads.
        field: of the request that names the rows.
        problems: filled.
        reader: what needs the columns, for people.
    """
    if not table.rows:
        problems.add(field, f"{table.ref} has no row to score", "NO_ROWS")
    found = table.find(target)
    if found is None:
        problems.add(field, f"{table.ref} lacks the target column {target!r}", "TARGET_NOT_FOUND")
    elif found.missing:
        _add_missing_target(table, found, field, problems)
    for name in inputs:
        if table.find(name) is None:
            problems.add(field, f"{table.ref} lacks the column {name!r}, which {reader} needs", "COLUMN_MISSING")


def _check_target(table: TableFacts, learning: Learning, problems: Problems) -> None:
    target = table.find(learning.target)
    if target is None:
        return
    if table.rows < _LEAST_ROWS:
        description = f"{table.rows} rows are too few to learn from: there must be {_LEAST_ROWS}"
        problems.add("spec.dataset", description, "TOO_FEW_ROWS")
    if target.missing:
        _add_missing_target(table, target, "spec.target", problems)
    elif target.distinct == 1 and table.rows >= _LEAST_ROWS:
        problems.add(
            "spec.target",
            f"the target {target.name!r} is constant: there is nothing to learn; choose another target, or rows in "
            "which it differs",
            "TARGET_CONSTANT",
        )
    if find_family(learning.family).reads in ("columns", "images"):
        _check_target_type(target, learning, problems)


def _check_target_type(target: TableColumn, learning: Learning, problems: Problems) -> None:
    wants = wants_classes(learning.family, learning.settings)
    if target.is_series:
        description = f"the target {target.name!r} holds series: forecasts are made by the family rnn"
        problems.add("spec.target", description, "TARGET_IS_SERIES")
    elif wants is False and not target.is_number:
        problems.add(
            "spec.target",
            f"the target {target.name!r} holds {target.arrow_type} values, and this family predicts numbers: use "
            "logistic_regression, boosted_trees or mlp (task='auto' or 'classification')",
            "TARGET_NOT_NUMERIC",
        )
    elif wants or not target.is_number:
        _check_classes(target, problems)


def _check_classes(target: TableColumn, problems: Problems) -> None:
    if _MOST_CLASSES < target.distinct <= _EXACT_DISTINCT or target.distinct > 2 * _EXACT_DISTINCT:
        problems.add(
            "spec.target",
            f"the target {target.name!r} has more different values than the most classes, {_MOST_CLASSES:,}: use a "
            "family that predicts numbers, or merge classes",
            "TOO_MANY_CLASSES",
        )
    elif len(target.top) == target.distinct > 1:
        rare = sorted(label for label, rows in target.top.items() if rows < _LEAST_CLASS_ROWS)
        for label in rare:
            problems.add(
                "spec.target",
                f"class {label!r} of {target.name!r} occurs once: a class needs two rows at least; drop or merge it",
                "CLASS_SEEN_ONCE",
            )


def _add_missing_target(table: TableFacts, target: TableColumn, field: str, problems: Problems) -> None:
    problems.add(
        field,
        f"the target {target.name!r} has no value in {target.missing} of {table.rows} rows: drop them first (dropna, "
        "or the step drop_missing)",
        "TARGET_MISSING",
    )


def _check_columns(table: TableFacts, inputs: Sequence[TableColumn], learning: Learning, problems: Problems) -> None:
    if not inputs:
        description = f"there is no column beside the target {learning.target!r}"
        problems.add("spec.dataset", description, "NO_INPUT_COLUMNS")
    for column in inputs:
        field = f"spec.dataset[{column.name!r}]"
        _check_name(column, OUTPUT_NAMES, problems)
        if column.is_series:
            problems.add(
                field,
                f"column {column.name!r} holds series ({column.arrow_type}), which the family rnn alone reads: drop "
                "it, or use rnn",
                "UNSUPPORTED_COLUMN",
            )
        elif not column.is_readable:
            problems.add(
                field,
                f"column {column.name!r} holds {column.arrow_type} values, which no model here reads: cast it to a "
                "number or text, or drop it",
                "UNSUPPORTED_COLUMN",
            )
        elif column.missing == table.rows > 0:
            problems.add(field, f"column {column.name!r} has no value in any row: drop it", "EMPTY_COLUMN")
        elif column.is_text and learning.handle_unknown == "error":
            _check_known(column, int(str(learning.settings["max_categories"])), field, problems)


def _check_known(column: TableColumn, most: int, field: str, problems: Problems) -> None:
    if most < column.distinct <= _EXACT_DISTINCT or column.distinct > 2 * _EXACT_DISTINCT:
        problems.add(
            field,
            f"column {column.name!r} has more than {most} different values, too many to refuse all others: raise "
            "max_categories, drop the column, or use handle_unknown='ignore'",
            "TOO_MANY_CATEGORIES",
        )


def _check_name(column: TableColumn, taken: Collection[str], problems: Problems) -> None:
    if column.name in taken:
        problems.add(
            f"spec.dataset[{column.name!r}]",
            f"column {column.name!r} bears the name of a model's output: rename or drop it",
            "RESERVED_NAME",
        )


def _check_series(inputs: Sequence[TableColumn], learning: Learning, problems: Problems) -> None:
    series = [column for column in inputs if column.is_series]
    if not series:
        problems.add(
            "spec.dataset",
            f"beside the target {learning.target!r} no column holds series: make windows of the rows first (the step "
            "windows), or import lists of numbers (Parquet, JSON Lines)",
            "NO_SERIES",
        )
    for column in series:
        _check_name(column, (*OUTPUT_NAMES, *_INTERVAL_NAMES), problems)
        if column.missing:
            problems.add(
                f"spec.dataset[{column.name!r}]",
                f"column {column.name!r} lacks a series in {column.missing} rows: drop them first (drop_missing)",
                "SERIES_MISSING",
            )


def _check_texts(inputs: Sequence[TableColumn], learning: Learning, problems: Problems) -> None:
    task = str(learning.settings.get("task", "classification"))
    wanted = {"auto": (1, 2), "pair": (2,)}.get(task, (1,))
    if len(inputs) not in wanted:
        listed = ", ".join(column.name for column in inputs[:50]) or "none"
        is_pair = wanted == (2,)
        problems.add(
            "spec.dataset",
            f"{learning.family} reads {'two columns' if is_pair else 'one column'} of texts or images beside the "
            f"target {learning.target!r}{' (or two together)' if len(wanted) > 1 else ''}, got {listed}: drop the "
            "others (drop_columns)",
            "NOT_TWO_TEXT_COLUMNS" if is_pair else "NOT_ONE_TEXT_COLUMN",
        )
        return
    for column in inputs:
        field = f"spec.dataset[{column.name!r}]"
        if not column.is_text:
            problems.add(field, f"column {column.name!r} holds {column.arrow_type} values, no texts", "NOT_TEXT")
        elif column.missing and find_family(learning.family).reads == "texts":
            problems.add(
                field,
                f"column {column.name!r} has no text in {column.missing} rows: drop them first (dropna, or the step "
                "drop_missing)",
                "TEXT_MISSING",
            )
