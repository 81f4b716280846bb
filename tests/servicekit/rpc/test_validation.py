"""The field rules, on a message type of the tests' own that has every rule on every sort of field."""

import math
import re
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import options_pb2
from servicekit.errors import InvalidArgument
from servicekit.rpc.validation import validate

Field = descriptor_pb2.FieldDescriptorProto
ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


def message_type() -> type[Message]:
    """Declare `lepton.test.Rules`, and `lepton.test.Part` in it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="lepton/test/rules.proto",
        package="lepton.test",
        syntax="proto3",
        dependency=["lepton/v1/options.proto"],
    )
    part = file.message_type.add(name="Part")
    add(part, 1, "name", Field.TYPE_STRING, required=True, id=True)
    add(part, 2, "part", Field.TYPE_MESSAGE, type_name=".lepton.test.Part")
    rules = file.message_type.add(name="Rules")
    add(rules, 1, "id", Field.TYPE_STRING, id=True)
    add(rules, 2, "ref", Field.TYPE_STRING, ref=True)
    add(rules, 3, "text", Field.TYPE_STRING, max_length=5)
    add(rules, 4, "number", Field.TYPE_DOUBLE, minimum=-1.0, maximum=2.0)
    add(rules, 5, "part", Field.TYPE_MESSAGE, type_name=".lepton.test.Part")
    add(rules, 6, "parts", Field.TYPE_MESSAGE, type_name=".lepton.test.Part", repeated=True, max_length=30)
    add(rules, 7, "ids", Field.TYPE_STRING, repeated=True, id=True, max_length=30)
    add(rules, 8, "maybe", Field.TYPE_INT32, optional=True, minimum=1.0)
    entry = rules.nested_type.add(name="ByNameEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    add(entry, 1, "key", Field.TYPE_STRING)
    add(entry, 2, "value", Field.TYPE_MESSAGE, type_name=".lepton.test.Part")
    add(rules, 9, "by_name", Field.TYPE_MESSAGE, type_name=".lepton.test.Rules.ByNameEntry", repeated=True)
    add(rules, 10, "must", Field.TYPE_MESSAGE, type_name=".lepton.test.Part", required=True)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lepton.test.Rules"))


def add(
    message: descriptor_pb2.DescriptorProto,
    number: int,
    name: str,
    type_: "Field.Type.ValueType",
    *,
    type_name: str = "",
    repeated: bool = False,
    optional: bool = False,
    **rules: Any,
) -> None:
    field = message.field.add(name=name, number=number, type=type_)
    if type_name:
        field.type_name = type_name
    field.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    if optional:
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
    if rules:
        field.options.Extensions[options_pb2.rules].CopyFrom(options_pb2.FieldRules(**rules))


Rules: Any = message_type()


def violations(**fields: Any) -> list[tuple[str, str]]:
    fields = {"must": {"name": "a"}} | fields
    try:
        validate(Rules(**{key: value for key, value in fields.items() if value is not None}))
    except InvalidArgument as error:
        return list(error.violations)
    return []


def paths(**fields: Any) -> list[str]:
    return [path for path, _ in violations(**fields)]


def test_empty_optional_fields_pass() -> None:
    assert violations() == []


@given(st.from_regex(ID, fullmatch=True))
def test_every_id_passes(text: str) -> None:
    assert violations(id=text) == []


@given(st.text(min_size=1))
def test_what_is_no_id_is_refused(text: str) -> None:
    assert paths(id=text) == ([] if ID.fullmatch(text) else ["id"])


@pytest.mark.parametrize("text", ["a\n", "A", "é", "-a", "a" * 64, "a b", "../a", "a.b", "٣"])
def test_near_ids_are_refused(text: str) -> None:
    assert paths(id=text) == ["id"]


@given(st.from_regex(ID, fullmatch=True), st.from_regex(ID, fullmatch=True))
def test_every_reference_passes(name: str, version: str) -> None:
    assert violations(ref=f"{name}@{version}") == []


@pytest.mark.parametrize("text", ["a", "a@", "@1", "a@1@2", "a@1\n", "a @1"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    assert paths(ref=text) == ["ref"]


@given(st.text(max_size=12))
def test_length_counts_characters(text: str) -> None:
    assert bool(violations(text=text)) == (len(text) > 5)


@given(st.floats())
def test_numbers_lie_within_their_bounds_and_are_numbers(number: float) -> None:
    assert bool(violations(number=number)) == (not -1 <= number <= 2)


def test_nan_is_refused() -> None:
    assert paths(number=math.nan) == ["number"]


@given(st.integers(min_value=-5, max_value=5))
def test_unset_optional_number_is_not_its_default(number: int) -> None:
    assert violations() == []
    assert bool(violations(maybe=number)) == (number < 1)


def test_required_message_must_be_there_and_be_right() -> None:
    assert violations(must=None) == [("must", "is required")]
    assert violations(must={}) == [("must.name", "is required")]


@given(st.lists(st.sampled_from(["good", "Bad", ""]), max_size=12))
def test_each_item_is_checked_by_its_place(names: list[str]) -> None:
    wrong = [index for index, name in enumerate(names) if name != "good"]
    assert paths(parts=[{"name": name} for name in names]) == [f"parts[{index}].name" for index in wrong]
    not_ids = [index for index, name in enumerate(names) if name == "Bad"]
    assert paths(ids=names) == [f"ids[{index}]" for index in not_ids]


def test_lists_have_a_most_of_items() -> None:
    assert violations(ids=["a"] * 30) == []
    assert violations(ids=["a"] * 31) == [("ids", "holds too many: 31, at most 30")]


def test_values_of_maps_are_checked_by_key() -> None:
    assert paths(by_name={"x": {"name": "Bad"}}) == ["by_name[x].name"]


@given(st.integers(min_value=1, max_value=20))
def test_messages_within_themselves_are_checked_all_the_way(depth: int) -> None:
    innermost = whole = Rules(must={"name": "a"}).must
    for _ in range(depth):
        innermost = innermost.part
        innermost.name = "a"
    innermost.name = "Bad"
    with pytest.raises(InvalidArgument) as raised:
        validate(whole)
    assert [path for path, _ in raised.value.violations] == ["part." * depth + "name"]


def test_endless_violations_are_cut_off() -> None:
    assert len(violations(parts=[{}] * 30)) == 16


def test_all_broken_fields_are_told_at_once() -> None:
    assert paths(id="Bad", text="too long", number=7) == ["id", "text", "number"]
