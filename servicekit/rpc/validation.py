"""Checks requests against the contract's field rules, `(lepton.v1.rules)`: one compiled list of checks a message type."""

import re
from collections.abc import Callable, Iterator
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

# Takes a field's value; returns what is wrong with it, or None.
_Check = Callable[[Any], str | None]


def validate(request: Message) -> None:
    """Check a request and all messages in it.

    Raises:
        InvalidArgument: with a violation for each field that breaks a rule, by path.
    """
    violations = list(_violations(request, ""))
    if violations:
        field, description = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InvalidArgument(f"{field} {description}{more}", reason="FIELD_RULES", violations=violations)


def _violations(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    for field, checks in _rules(message.DESCRIPTOR):
        value = getattr(message, field.name)
        for check in checks:
            if wrong := check(_present(message, field, value)):
                yield prefix + field.name, wrong
        if field.type == FieldDescriptor.TYPE_MESSAGE and not _is_map(field):
            yield from _nested(message, field, value, f"{prefix}{field.name}")


def _nested(message: Message, field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if field.is_repeated:
        for index, item in enumerate(value):
            yield from _violations(item, f"{path}[{index}].")
    elif message.HasField(field.name):
        yield from _violations(value, f"{path}.")


def _present(message: Message, field: FieldDescriptor, value: Any) -> Any:
    """Return the value, or None for a message field that is not set."""
    if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated and not message.HasField(field.name):
        return None
    return value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@cache
def _rules(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, tuple[_Check, ...]], ...]:
    """Return the fields that need a look, with their checks: those with rules, and messages that hold such fields."""
    compiled = []
    for field in descriptor.fields:
        checks = _checks(field)
        if checks or (field.type == FieldDescriptor.TYPE_MESSAGE and _reaches_rules(field.message_type, frozenset())):
            compiled.append((field, checks))
    return tuple(compiled)


def _reaches_rules(descriptor: Descriptor, seen: frozenset[str]) -> bool:
    if descriptor.full_name in seen:
        return False
    seen = seen | {descriptor.full_name}
    return any(
        field.GetOptions().HasExtension(options_pb2.rules)
        or (field.type == FieldDescriptor.TYPE_MESSAGE and _reaches_rules(field.message_type, seen))
        for field in descriptor.fields
    )


def _checks(field: FieldDescriptor) -> tuple[_Check, ...]:
    options = field.GetOptions()
    if not options.HasExtension(options_pb2.rules):
        return ()
    rules = options.Extensions[options_pb2.rules]
    checks: list[_Check] = []
    if rules.required:
        checks.append(lambda value: None if value else "is required")
    if rules.id:
        checks.append(lambda value: None if not value or _ID.fullmatch(value) else _ID_TEXT)
    if rules.ref:
        checks.append(lambda value: None if not value or _REF.fullmatch(value) else _REF_TEXT)
    if rules.max_length:
        checks.append(_longest(rules.max_length))
    if rules.HasField("minimum") or rules.HasField("maximum"):
        least = rules.minimum if rules.HasField("minimum") else float("-inf")
        most = rules.maximum if rules.HasField("maximum") else float("inf")
        checks.append(_between(least, most))
    return tuple(checks)


def _longest(limit: int) -> _Check:
    return lambda value: f"is too long: {len(value)}, at most {limit}" if value and len(value) > limit else None


def _between(least: float, most: float) -> _Check:
    # Written so that NaN, which compares false with everything, is refused.
    return lambda value: None if least <= value <= most else f"must lie between {least:g} and {most:g}, got {value:g}"
