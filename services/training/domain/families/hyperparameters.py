"""One setting of a family, and the check of what is given for it."""

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass

from servicekit.errors import InvalidArgument


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a family.

    Args:
        name: by the field's terms.
        description: what it does, with its unit.
        default: used where it is not given; its type is the setting's.
        minimum, maximum: inclusive bounds of a number.
        choices: the allowed values of a text.
    """

    name: str
    description: str
    default: int | float | str | bool
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


def unknown_hyperparameter(family: str, name: str, known: Collection[str]) -> str:
    """Return what is said of a name that a family has no hyperparameter of, with the nearest one that it has."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{family} has no hyperparameter {name!r}: expected one of {', '.join(known)}{hint}"


def check_value(setting: Hyperparameter, value: object) -> int | float | str | bool:
    """Return a value as its setting has it.

    Raises:
        InvalidArgument: it is none of the choices, no number, or out of range.
    """
    if setting.choices:
        if value not in setting.choices:
            raise InvalidArgument(
                f"{setting.name} must be one of {', '.join(setting.choices)}, got {value!r}",
                reason="BAD_HYPERPARAMETER",
            )
        return str(value)
    if isinstance(value, int) and not _is_within_doubles(value):
        # Not told: it may have thousands of digits.
        raise InvalidArgument(f"{setting.name} is a number that no double holds", reason="BAD_HYPERPARAMETER")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"{setting.name} must be a number, got {value!r}", reason="BAD_HYPERPARAMETER")
    if isinstance(setting.default, int) and int(value) != value:
        raise InvalidArgument(f"{setting.name} must be a whole number, got {value!r}", reason="BAD_HYPERPARAMETER")
    least = -math.inf if setting.minimum is None else setting.minimum
    most = math.inf if setting.maximum is None else setting.maximum
    if not least <= value <= most:
        raise InvalidArgument(
            f"{setting.name} must lie between {least:g} and {most:g}, got {value:g}", reason="BAD_HYPERPARAMETER"
        )
    return type(setting.default)(value)


def _is_within_doubles(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True
