"""What a fit begins from: a version in the registry, a folder of pretrained weights, or one of Hugging Face's hub.

Weights travel once: what the platform has already, by digest, is not uploaded again.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from lepton import errors, names
from lepton.connection import Connection
from lepton.v1 import registry_pb2
from lepton.versions import ModelVersion, register

_CONFIG, _TOKENIZER, _OWN = "config.json", "tokenizer.json", "family.json"
_WEIGHTS, _SHARDS = "model.safetensors", "model.safetensors.index.json"
# Formats that run code when they are loaded, by how their files are called.
_CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_SUFFIX = "-weights"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REF = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(@[a-z0-9][a-z0-9_-]{0,62})?")
_PIECE_BYTES = 1 << 20


def base_version(given: str | Path | ModelVersion, connection: Connection) -> ModelVersion:
    """Return the version that a fit begins from, uploading a folder that the platform does not have yet.

    Args:
        given: a version, its name@number, a folder, or the id of one of Hugging Face's hub (owner/name).
        connection: the platform.

    Raises:
        InvalidArgument: it is none of these, or a folder without what it needs; the message says what lacks.
        NotFound: the hub has no such model, or it cannot be reached.
    """
    if isinstance(given, ModelVersion):
        return given
    if Path(given).expanduser().is_dir():
        return upload_folder(given, connection=connection)
    text = str(given)
    if isinstance(given, str) and _REF.fullmatch(text):
        return ModelVersion.get(text, connection=connection)
    if isinstance(given, str) and _HUB_ID.fullmatch(text) and not text.startswith("."):
        files = _hub_files(text)
        return _register(names.to_id(text)[:50] + _SUFFIX, files, text, connection)
    raise errors.InvalidArgument(
        f"{text!r} is no folder, nor name@number of a version, nor an id of the hub (owner/name)",
        reason="PRETRAINED_NOT_FOUND",
    )


def upload_folder(
    folder: str | Path, *, name: str | None = None, description: str = "", connection: Connection
) -> ModelVersion:
    """Register a folder's weights as a version that fits begin from; return the one that has them already, if any.

    Args:
        folder: with config.json, tokenizer.json and safetensors, as published encoders have them; or with the files of
            a version that was trained here (family.json and what stands beside it).
        name: the model's id; by default made from the folder's name.
        description: for people.
        connection: the platform.

    Raises:
        InvalidArgument: a file lacks, or the registry refused one; the message says which.
    """
    folder = Path(folder).expanduser()
    files = _folder_files(folder)
    return _register(name or names.to_id(folder.resolve().name)[:50] + _SUFFIX, files, description, connection)


def _folder_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that travel, by name."""
    if (folder / _OWN).is_file():
        found = {path.name: path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
        if not any(name.endswith(".safetensors") for name in found):
            raise _lacking(folder, ["*.safetensors"])
        return found
    lacking = [name for name in (_CONFIG, _TOKENIZER) if not (folder / name).is_file()]
    shards = _shards((folder / _SHARDS).read_bytes()) if (folder / _SHARDS).is_file() else [_WEIGHTS]
    weights = [_WEIGHTS] if (folder / _WEIGHTS).is_file() else shards
    lacking += [name for name in weights if not (folder / name).is_file()]
    if lacking:
        raise _lacking(folder, lacking)
    return {name: folder / name for name in (_CONFIG, _TOKENIZER, *weights)}


def _lacking(folder: Path, names_: list[str]) -> errors.InvalidArgument:
    code = sorted(path.name for path in folder.iterdir() if path.suffix in _CODE)
    hint = f"; {code[0]} is not read, for its format runs code on load: convert it to safetensors" if code else ""
    return errors.InvalidArgument(
        f"{str(folder)!r} is no folder of pretrained weights: it lacks {', '.join(names_)}{hint}",
        reason="PRETRAINED_INCOMPLETE",
    )


def _shards(index: bytes) -> list[str]:
    """Return the names of the files that an index spreads tensors over."""
    try:
        return sorted({Path(str(name)).name for name in json.loads(index)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.InvalidArgument(f"{_SHARDS} is no index of weights", reason="PRETRAINED_INCOMPLETE") from error


def _hub_files(repository: str) -> dict[str, Path]:
    """Return the files of a model of Hugging Face's hub, from its cache where they are there, by name."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise errors.FailedPrecondition(
            f"{repository!r} is no folder here, and models of Hugging Face's hub are fetched by huggingface_hub: "
            "install it (pip install huggingface_hub), or give a folder",
            reason="HUB_NOT_INSTALLED",
        ) from error

    def fetch(name: str) -> Path:
        return Path(hf_hub_download(repository, name))

    try:
        found = {name: fetch(name) for name in (_CONFIG, _TOKENIZER)}
        try:
            return {**found, _WEIGHTS: fetch(_WEIGHTS)}
        except EntryNotFoundError:
            return {**found, **{name: fetch(name) for name in _shards(fetch(_SHARDS).read_bytes())}}
    except (EntryNotFoundError, LocalEntryNotFoundError) as error:
        raise errors.NotFound(
            f"{repository!r} has no config.json, tokenizer.json and safetensors on the hub, or that cannot be reached: "
            f"{str(error).splitlines()[0]}",
            reason="PRETRAINED_NOT_FOUND",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise errors.NotFound(
            f"{repository!r} is no folder here, and the hub gives no such model: {str(error).splitlines()[0]}",
            reason="PRETRAINED_NOT_FOUND",
        ) from error


def _register(model: str, files: Mapping[str, Path], description: str, connection: Connection) -> ModelVersion:
    artifacts = [
        registry_pb2.Artifact(name=name, sha256=_sha256(path), size_bytes=path.stat().st_size)
        for name, path in sorted(files.items())
    ]
    if known := _registered(model, artifacts, connection):
        return known
    request = registry_pb2.CreateVersionRequest(
        model=model,
        artifacts=artifacts,
        lineage=registry_pb2.Lineage(family=_family(files)),
        description=description,
        request_id=names.request_id(),
        pretrained=True,
    )
    return register(request, files, connection)


def _family(files: Mapping[str, Path]) -> str:
    if _OWN not in files:
        return "transformer"
    try:
        return str(json.loads(files[_OWN].read_bytes())["family"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.InvalidArgument(f"{_OWN} names no family", reason="PRETRAINED_INCOMPLETE") from error


def _registered(model: str, artifacts: list[registry_pb2.Artifact], connection: Connection) -> ModelVersion | None:
    """Return the READY version of a model that has exactly some files, or None."""
    lines = sorted(f"{item.name}:{item.sha256}\n" for item in artifacts)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    request = registry_pb2.ListVersionsRequest(model=model, filter=f'digest = "{digest}"')
    try:
        found = connection.registry.ListVersions(request).versions
    except errors.NotFound:
        return None
    ready = [version for version in found if version.state == registry_pb2.VERSION_STATE_READY and version.pretrained]
    return ModelVersion(connection, ready[0]) if ready else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
