"""Which rows a version's plans are judged on, and how they reach the child."""

import contextlib
import re
from collections.abc import AsyncGenerator

from lepton.v1 import data_pb2, registry_pb2
from servicekit.errors import InvalidArgument, NotFound
from services.inference.adapters.data_client import DataClient
from services.inference.adapters.training_client import TrainingClient
from services.inference.plans.wire import Source, frame

# At rest, where tables take a fraction of what they do on their way. Of a larger dataset its first rows count alone.
_MOST_BYTES = 256 << 20
_HELD_OUT_FRACTION = 0.1
_SPREAD = re.compile(r"_\d+$")


async def find_source(
    version: registry_pb2.Version, dataset: str, data: DataClient, training: TrainingClient
) -> tuple[Source | None, str]:
    """Return where a version's evaluation rows are from; or None, and why there are none.

    A version trained here without a dataset of its own to be evaluated on was scored on a share of its training rows,
    held out by seed: the same rows are drawn again. For one made elsewhere it is what it was last evaluated on.

    Args:
        version: which one.
        dataset: that the deployment names, name@number; empty for the version's own.
        data: the data service.
        training: knows of evaluations since.
    """
    ref, target = dataset, ""
    if not ref and version.evaluations:
        ref = version.evaluations[0].dataset
    if not ref:
        ref, target = await training.evaluated_on(f"{version.model}@{version.number}") or ("", "")
    if not ref:
        return None, "the version was not evaluated on any dataset: evaluate it, or name one in the deployment's tuning"
    try:
        found = await data.version(ref)
    except (NotFound, InvalidArgument):
        return None, f"there is no dataset {ref}, which its evaluation names"
    source = _source(version, ref, target, found, is_own=not dataset)
    if source.seed is not None and not _is_drawn_alike(version, found.rows):
        why = f"{ref} streamed into its training, which drew the rows to judge by in another way"
        return None, f"{why}: name a dataset in the deployment's tuning"
    return source, ""


def _is_drawn_alike(version: registry_pb2.Version, rows: int) -> bool:
    """Return whether a version was evaluated on the share that is drawn from a table in memory."""
    # Each class is rounded for itself; one row at least is drawn.
    return abs(version.evaluations[0].rows - _HELD_OUT_FRACTION * rows) <= max(1, len(version.signature.classes))


def _source(
    version: registry_pb2.Version, ref: str, target: str, found: data_pb2.DatasetVersion, *, is_own: bool
) -> Source:
    signature = version.signature
    was_held_out = is_own and not version.uploaded and ref == version.lineage.dataset
    return Source(
        ref,
        # The truth of a forecast is a list: its plans are judged by how far they agree with the plain one.
        "" if signature.task == "forecasting" else signature.target or target or found.label,
        found.rows,
        version.lineage.seed if was_held_out else None,
        tuple(signature.classes) if was_held_out else (),
        max(1, int(found.rows * min(1.0, _MOST_BYTES / max(1, found.size_bytes)))),
    )


async def frames(version: registry_pb2.Version, source: Source, data: DataClient) -> AsyncGenerator[bytes, None]:
    """Yield the rows as the child reads them: labels alone first, where held-out rows are to be drawn."""
    columns_known = (await data.version(source.dataset)).columns
    known = [column.name for column in columns_known]
    target = [source.target] if source.target in known else []
    names = {spec.name for spec in version.signature.inputs}
    # x, or x_0, x_1 and so on.
    inputs = [name for name in known if name not in target and (name in names or _SPREAD.sub("", name) in names)]
    # As the model reads texts: exactly those of the imported file.
    texts = {spec.name for spec in version.signature.inputs if spec.datatype == "BYTES" and spec.kind}
    if version.signature.outputs and version.signature.outputs[0].datatype == "BYTES":
        texts.update(target)
    types = {
        column.name: "string"
        for column in columns_known
        if column.name in texts and column.arrow_type not in ("string", "large_string")
    }
    tables = [target, [*inputs, *target]] if source.needs_labels else [[*inputs, *target]]
    for columns in tables:
        # Closed at once where the child has enough, so that the call ends, too.
        async with contextlib.aclosing(
            data.read(source.dataset, columns, {name: kind for name, kind in types.items() if name in columns})
        ) as chunks:
            async for chunk in chunks:
                if chunk:
                    yield frame(chunk)
        yield frame(b"")
