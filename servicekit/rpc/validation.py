"""Checks requests against the contract's field rules, `(lepton.v1.rules)`, compiled once a message type."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from lepton.v1 import options_pb2
from servicekit.errors import InvalidArgument

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_REF = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}@[a-z0-9][a-z0-9_-]{0,62}")
_ID_TEXT = "must be an id: a-z, 0-9, - and _, at most 63, beginning with a letter or digit"
_REF_TEXT = "must be a reference: name@number or name@alias"

# Enough to mend a request by; a list of a million bad items must not become a million violations.
_MOST_VIOLATIONS = 16

# Takes one value; returns what is wrong with it, or None.
_Check = Callable[[Any], str | None]


@dataclass(frozen=True)
class _Field:
    """What to look at in one field of a message type.

    Args:
        name: the field's name.
        required: whether it must be set.
        has_presence: whether unset differs from its default.
        is_repeated: whether it is a list or a map.
        max_items: most items of a list; 0 for no bound.
        checks: of its value, or of each item of a list.
        descend: whether its messages hold fields to look at.
        is_map: whether it is a map, whose values are then the messages.
    """

    name: str
    required: bool
    has_presence: bool
    is_repeated: bool
    max_items: int
    checks: tuple[_Check, ...]
    descend: bool
    is_map: bool


def validate(request: Message) -> None:
    """Check a request and all messages in it.

    Raises:
        InvalidArgument: with a violation for each field that breaks a rule, by path; the first 16 of them.
    """
    violations = list(itertools.islice(_violations(request, ""), _MOST_VIOLATIONS))
    if violations:
        field, description = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InvalidArgument(f"{field} {description}{more}", reason="FIELD_RULES", violations=violations)


def _violations(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field in _fields(message.DESCRIPTOR):
        path = prefix + field.name
        if field.has_presence and not message.HasField(field.name):
            if field.required:
                yield path, "is required"
            continue
        value = getattr(message, field.name)
        if field.required and not field.has_presence and not value:
            yield path, "is required"
        elif field.is_repeated:
            yield from _of_items(field, value, path)
        else:
            yield from _of_value(field, value, path)


def _of_items(field: _Field, values: Any, path: str) -> Iterator[tuple[str, str]]:
    if field.max_items and len(values) > field.max_items:
        yield path, f"holds too many: {len(values)}, at most {field.max_items}"
        return
    for key, value in values.items() if field.is_map else enumerate(values):
        yield from _of_value(field, value, f"{path}[{key}]")


def _of_value(field: _Field, value: Any, path: str) -> Iterator[tuple[str, str]]:
    for check in field.checks:
        if wrong := check(value):
            yield path, wrong
    if field.descend:
        yield from _violations(value, f"{path}.")


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    """Return what to look at in a message type: fields with rules, and messages that hold such fields."""
    return tuple(
        _compiled(field)
        for field in descriptor.fields
        if _has_rules(field) or (_messages_of(field) and _reaches_rules(_messages_of(field), frozenset()))
    )


def _compiled(field: FieldDescriptor) -> _Field:
    rules = field.GetOptions().Extensions[options_pb2.rules]
    held = _messages_of(field)
    return _Field(
        name=field.name,
        required=rules.required,
        has_presence=field.has_presence,
        is_repeated=field.is_repeated,
        max_items=rules.max_length if field.is_repeated else 0,
        checks=_checks(field, rules),
        descend=held is not None and _reaches_rules(held, frozenset()),
        is_map=_is_map(field),
    )


def _has_rules(field: FieldDescriptor) -> bool:
    return field.GetOptions().HasExtension(options_pb2.rules)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _messages_of(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of the messages that a field holds, a map's values included; None for scalars."""
    if field.message_type is not None and _is_map(field):
        return field.message_type.fields_by_name["value"].message_type
    return field.message_type


def _reaches_rules(descriptor: Descriptor | None, seen: frozenset[str]) -> bool:
    if descriptor is None or descriptor.full_name in seen:
        return False
    seen = seen | {descriptor.full_name}
    return any(_has_rules(field) or _reaches_rules(_messages_of(field), seen) for field in descriptor.fields)


def _checks(field: FieldDescriptor, rules: options_pb2.FieldRules) -> tuple[_Check, ...]:
    checks: list[_Check] = []
    if rules.id:
        checks.append(lambda value: None if not value or _ID.fullmatch(value) else _ID_TEXT)
    if rules.ref:
        checks.append(lambda value: None if not value or _REF.fullmatch(value) else _REF_TEXT)
    if rules.max_length and not field.is_repeated:
        checks.append(_longest(rules.max_length))
    if rules.HasField("minimum") or rules.HasField("maximum"):
        least = rules.minimum if rules.HasField("minimum") else float("-inf")
        most = rules.maximum if rules.HasField("maximum") else float("inf")
        checks.append(_between(least, most))
    return tuple(checks)


def _longest(limit: int) -> _Check:
    return lambda value: f"is too long: {len(value)}, at most {limit}" if len(value) > limit else None


def _between(least: float, most: float) -> _Check:
    bounds = f"at least {least:g}" if most == float("inf") else f"at most {most:g}"
    if least != float("-inf") and most != float("inf"):
        bounds = f"between {least:g} and {most:g}"
    # Written so that NaN, which compares false with everything, is refused.
    return lambda value: None if least <= value <= most else f"must be {bounds}, got {value:g}"
