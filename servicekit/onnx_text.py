"""ONNX Runtime's error texts in short: why a model cannot be loaded, and the line that says what went wrong."""

import re

_MOST_CHARACTERS = 300
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"(?:[\w./\\-]+[/\\])?[\w-]+\.(?:cc|cpp|cu|h):\d+\s+")
# Paths are in double quotes; names of nodes, which may look alike, in single ones.
_PATH = re.compile(r'"[^"]*[/\\]([^"/\\]+)"')
_NEW_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEW_OPSET = re.compile(r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)", re.DOTALL)
_UNKNOWN_OPERATOR = re.compile(r"Fatal error: ([\w.]+):([\w.]+)\(-?\d+\) is not a registered function/op")
_UNKNOWN_TYPE = re.compile(r"MLDataType for: (\S+) is not currently registered or supported")
_NO_KERNEL = re.compile(r"Could not find an implementation for (\S+) node with name '([^']*)'")


def load_problem(text: str) -> tuple[str, str]:
    """Return why ONNX Runtime cannot load a model: a stable reason, and a message with what to do about it.

    Args:
        text: of the exception.

    Returns:
        IR_TOO_NEW, OPSET_TOO_NEW, UNSUPPORTED_TYPE, NOT_ONNX or LOAD_FAILED; the message for people.
    """
    if found := _NEW_IR.search(text):
        most = found[2]
        return "IR_TOO_NEW", f"{found[0]}. Set model.ir_version = {most} with the onnx package, or export it so"
    if found := _NEW_OPSET.search(text):
        opset, domain, most = found.groups()
        return "OPSET_TOO_NEW", (
            f"the model uses opset {opset} of {domain}, and ONNX Runtime supports {domain} till opset {most}. "
            f"Export it with opset {most} or lower"
        )
    if found := _UNKNOWN_OPERATOR.search(text):
        return "LOAD_FAILED", (
            f"operator {found[2]} of domain {found[1]} is not one of ONNX Runtime's own, and custom operators are not "
            "loaded. Export the model with standard operators, or with the custom ones as functions of the model"
        )
    if found := _UNKNOWN_TYPE.search(text):
        return "UNSUPPORTED_TYPE", f"ONNX Runtime has no {found[1]}. Export the model with another type"
    if found := _NO_KERNEL.search(text):
        node = f" (node {found[2]!r})" if found[2] else ""
        return "LOAD_FAILED", f"ONNX Runtime has no implementation of {found[1]}{node} for the types of its tensors"
    is_onnx = not any(mark in text for mark in ("INVALID_PROTOBUF", "ModelProto does not", "No graph was found"))
    return ("LOAD_FAILED" if is_onnx else "NOT_ONNX"), f"ONNX Runtime cannot load the model: {last_line(text)}"


def last_line(text: str) -> str:
    """Return the end of an error text, without the C++ function and the folders that it names; 300 characters at most.

    The beginning of such a text is the place in ONNX Runtime's sources; what went wrong comes last.
    """
    # What follows `==> Context` says where, once more.
    lines = [line.strip() for line in _without_places(text).split("==> Context")[0].splitlines() if line.strip()]
    line = _PATH.sub(r'"\1"', lines[-1]) if lines else "no reason given"
    return line if len(line) <= _MOST_CHARACTERS else "..." + line[-_MOST_CHARACTERS + 3 :]


def _without_places(text: str) -> str:
    """Return a text without `file.cc:12 type function(arguments)`."""
    text = _PREFIX.sub("", text)
    while found := _SOURCE.search(text):
        text = text[: found.start()] + text[_end_of_function(text, found.end()) :].lstrip()
    return text


def _end_of_function(text: str, start: int) -> int:
    """Return where a C++ signature that begins at a place ends; the next word's end where it has no arguments."""
    place = start
    while (opening := text.find("(", place)) >= 0:
        end = _closing(text, opening)
        if end is None:
            break
        place = end
        # Not yet the arguments: `(anonymous namespace)::f(...)`, `operator()(...)`, a lambda's `::<lambda()>`.
        if text[place : place + 1] in (" ", "\n", ""):
            return _end_of_details(text, place)
    word = re.compile(r"\S*").match(text, start)
    return word.end() if word else start


def _end_of_details(text: str, place: int) -> int:
    """Return where `const` and `[with T = ...]` end, which may follow the arguments."""
    while True:
        after = text[place:].lstrip()
        place = len(text) - len(after)
        if after.startswith("const "):
            place += len("const ")
        elif after.startswith("[with ") and (end := _closing(text, place, "[]")) is not None:
            place = end
        else:
            return place


def _closing(text: str, opening: int, pair: str = "()") -> int | None:
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == pair[0]) - (text[place] == pair[1])
        if depth == 0:
            return place + 1
    return None
