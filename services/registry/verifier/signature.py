"""A graph's signature: which inputs and outputs a request and a reply can carry, and what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servicekit.onnx_graph import GraphValue, GraphValues
from servicekit.onnx_sequences import Servable
from servicekit.ort_datatypes import INPUT_DATATYPES, ORT_DATATYPES
from servicekit.sample_tensors import SampleInput
from services.registry.verifier.refusal import Refused

_MOST_LABELS = 1000
_COMPLEX = "complex"


@dataclass(frozen=True)
class GraphSignature:
    """What a graph takes and gives over the wire.

    Args:
        inputs: in the graph's order, to make samples of.
        tensors_in, tensors_out: by name, datatype, shape (-1 for a variable dimension), any_rank and labels.
        warnings: what is left out or changed, for people.
    """

    inputs: tuple[SampleInput, ...]
    tensors_in: list[dict[str, object]]
    tensors_out: list[dict[str, object]]
    warnings: list[str]


def read_signature(session: Any, values: GraphValues, servable: Servable, known: Mapping[str, str]) -> GraphSignature:
    """Return the signature of a loaded graph.

    Args:
        session: ONNX Runtime's.
        values: what the file declares: ONNX Runtime shows an unknown rank like a scalar.
        servable: what was changed so that it can be served.
        known: a text that each input of texts takes, as far as known.

    Raises:
        Refused: an input, or every output, is nothing that the wire can carry.
    """
    labels = servable.labels
    declared = {item.name: item for item in (*values.inputs, *values.outputs)}
    taken, given = list(session.get_inputs()), _distinct(session.get_outputs())
    for item in taken:
        if item.type not in INPUT_DATATYPES:
            raise Refused(
                "UNSUPPORTED_TYPE", f"input {item.name!r} is a {item.type}, {_remedy(item.type, is_input=True)}"
            )
    kept = [item for item in given if item.type in ORT_DATATYPES]
    if not kept:
        raise Refused("UNSUPPORTED_TYPE", _without_outputs(given))
    inputs = tuple(_sample_input(item, declared.get(item.name), known) for item in taken)
    left_out = [
        f"output {item.name!r} is left out: it is a {item.type}, {_remedy(item.type)}"
        for item in given
        if item not in kept
    ]
    return GraphSignature(
        inputs,
        [_described(item, declared.get(item.name), ()) for item in taken],
        [_described(item, declared.get(item.name), labels.get(item.name, ())) for item in kept],
        [_unzipped(name, found) for name, found in labels.items()]
        + [_flattened(name, lengths) for name, lengths in servable.lengths.items()]
        + left_out,
    )


def named(refused: Refused, values: GraphValues, servable: Servable) -> Refused:
    """Return a refusal to load, or one that names inputs and outputs of a type that ONNX Runtime lacks."""
    unknown = [item for item in values.inputs if item.kind == "tensor" and str(item) not in ORT_DATATYPES]
    unknown += [item for item in values.outputs if item.element.startswith(_COMPLEX)]
    if not unknown and servable.lengths:
        names = ", ".join(map(repr, servable.lengths))
        return Refused(
            "UNSUPPORTED_TYPE",
            f"{names}: sequences, which requests and replies cannot carry, and the graph does not load with tensors in "
            f"their place: export the model so. {refused.message}",
        )
    if not unknown:
        return refused
    names = ", ".join(f"{item.name!r} is a {item}" for item in unknown)
    parts = ", complex ones as real and imaginary parts" if any(_COMPLEX in str(item) for item in unknown) else ""
    return Refused("UNSUPPORTED_TYPE", f"{names}, which ONNX Runtime cannot run: export the model with FP32{parts}")


def _distinct(outputs: Sequence[Any]) -> list[Any]:
    return list({item.name: item for item in outputs}.values())


def _without_outputs(given: Sequence[Any]) -> str:
    if not given:
        return "the graph has no output: export the model with at least one"
    return "; ".join(f"output {item.name!r} is a {item.type}, {_remedy(item.type)}" for item in given)


def _remedy(kind: str, *, is_input: bool = False) -> str:
    """Return why the wire cannot carry a type, and what to do."""
    why = "and requests and replies carry tensors alone"
    if is_input and not kind.startswith("tensor("):
        return f"{why}: export the model with one tensor for it, or one a part"
    if "map(" in kind:
        return f"{why}: convert scikit-learn models with options={{'zipmap': False}}"
    if kind.startswith("seq("):
        return f"{why}: export one tensor, by ConcatFromSequence for instance"
    if kind.startswith("optional("):
        return f"{why}: export the model without optional values"
    return "which requests and replies cannot carry: export the model with an additional Cast to FP32 or FP16"


def _flattened(name: str, lengths: str) -> str:
    if not lengths:
        return f"{name!r}, a sequence of scalars, is served as one tensor"
    return (
        f"{name!r}, a sequence of tensors, is served as two: {name!r} has the rows of all items one after the other, "
        f"{lengths!r} how many rows each item has; items whose rows differ in shape cannot be served"
    )


def _unzipped(name: str, labels: tuple[str, ...]) -> str:
    return (
        f"output {name!r} is served as a tensor of shape [rows, {len(labels)}] in place of ZipMap's maps; its columns "
        f"are the classes in the order of the signature"
    )


def _sample_input(item: Any, declared: GraphValue | None, known: Mapping[str, str]) -> SampleInput:
    shape = None if _is_any_rank(item, declared) else tuple(_dimension(size) for size in item.shape)
    return SampleInput(item.name, INPUT_DATATYPES[item.type], shape, known.get(item.name, ""))


def _dimension(size: Any) -> int | str | None:
    return size if isinstance(size, str) and size else size if isinstance(size, int) and size >= 0 else None


def _is_any_rank(item: Any, declared: GraphValue | None) -> bool:
    return not item.shape and declared is not None and declared.kind == "tensor" and declared.shape is None


def _described(item: Any, declared: GraphValue | None, labels: tuple[str, ...]) -> dict[str, object]:
    return {
        "name": item.name,
        "datatype": INPUT_DATATYPES[item.type],
        "shape": [size if isinstance(size, int) and size >= 0 else -1 for size in item.shape],
        "any_rank": _is_any_rank(item, declared),
        "labels": list(labels[:_MOST_LABELS]),
    }
