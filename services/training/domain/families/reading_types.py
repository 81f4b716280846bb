"""The Arrow types that a dataset's columns are read as, where a model or another dataset decided them before."""

from collections.abc import Iterable, Mapping

from services.training.domain.families.frame import Column
from services.training.domain.families.target import EMBEDDING, Target

_TEXTS = ("string", "large_string")
_OF_TEXTS = {"INT64": "int64", "FP64": "double", "FP32": "double", "BOOL": "bool"}


def types_to_read(found: Mapping[str, str], columns: Iterable[Column], target: Target | None) -> dict[str, str]:
    """Return the types of the columns that are read otherwise than they are stored.

    Texts are read as the imported file had them, and texts as what they spell where training had numbers, booleans or
    dates. Other types convert later, or are refused there.

    Args:
        found: Arrow type name by column of the dataset.
        columns: what the model reads.
        target: what it predicts; None where that is not read.
    """
    wanted = {column.name: _wanted(column) for column in columns if column.kind != "series"}
    if target is not None and not target.horizon:
        is_text = target.datatype == "BYTES" or target.task == EMBEDDING
        wanted[target.name] = "string" if is_text else _OF_TEXTS.get(target.datatype, "")
    return {name: kind for name, kind in wanted.items() if name in found and _differs(found[name], kind)}


def types_by_datatype(found: Mapping[str, str], datatypes: Mapping[str, str]) -> dict[str, str]:
    """Return the same for a model made elsewhere, of which only the tensors' Open Inference datatypes are known."""
    kinds = {name: "string" if kind == "BYTES" else _OF_TEXTS.get(kind, "") for name, kind in datatypes.items()}
    return {name: kind for name, kind in kinds.items() if name in found and _differs(found[name], kind)}


def _wanted(column: Column) -> str:
    if column.datatype == "BYTES":
        return "string"
    if column.kind == "temporal":
        return "timestamp[us]"
    return "bool" if column.kind == "boolean" else _OF_TEXTS[column.datatype]


def _differs(found: str, wanted: str) -> bool:
    """Return whether a stored type is to be read as another one: text as something else, or something else as text."""
    if not wanted or found.startswith("list<"):
        return False
    return (found in _TEXTS) != (wanted == "string")
