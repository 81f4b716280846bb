"""Pretrained weights against a whole platform: folders and the hub's cache in, a served classifier out."""

import json
from pathlib import Path
from typing import Any

import pytest

import lepton
from lepton import errors
from lepton.connection import Connection
from lepton.models import MLP, Transformer
from lepton.pretrained import base_version, upload_folder
from lepton.versions import ModelVersion
from tests.support.platform import Platform
from tests.training.families.text.test_pretrained import moods, pretrained_files

FEW: dict[str, Any] = {"epochs": 6, "batch_size": 8, "max_tokens": 12, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


def _folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def _hub_cache(root: Path, repository: str, files: dict[str, bytes]) -> None:
    """Lay files out as the hub's client caches them."""
    folder = root / f"models--{repository.replace('/', '--')}"
    _folder(folder / "snapshots" / ("c" * 40), files)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)


def test_folder_becomes_a_version_once_and_a_classifier_begins_from_it(
    platform: Platform, connection: Connection, tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "Tiny BERT", {**pretrained_files(), "vocab.txt": b"left", "pytorch_model.bin": b"left"})
    table = moods(80).to_pandas()
    model = Transformer(name="moods", pretrained=folder, trainable="lora", connection=connection, **FEW)
    model.fit(table, target="mood")
    version = model.trained_version().message
    assert version.lineage.parent == "tiny-bert-weights@1"
    assert not version.pretrained
    assert {"model.onnx", "tokenizer.json", "encoder.json", "weights.safetensors"} <= {
        item.name for item in version.artifacts
    }
    weights = ModelVersion.get("tiny-bert-weights@1", connection=connection)
    assert {item.name for item in weights.message.artifacts} == {"config.json", "tokenizer.json", "model.safetensors"}
    # The same files are the same version, also by the command line.
    shown = json.loads(platform.lepton("models", "upload", "tiny-bert-weights", str(folder), "--json").stdout)
    assert shown["number"] == "1"
    deployment = lepton.Deploy(model).save()
    found = deployment.predict(table.head(4))
    assert list(found["mood"]) == list(table.head(4)["mood"])


def test_weights_are_neither_served_nor_scored_nor_fine_tuned_as_they_are(
    connection: Connection, tmp_path: Path
) -> None:
    weights = upload_folder(_folder(tmp_path / "raw", pretrained_files()), connection=connection)
    assert (weights.ref, weights.state) == ("raw-weights@1", "READY")
    # Written and brought again, they are the same.
    saved = weights.save(tmp_path / "saved")
    assert upload_folder(saved, name="raw-weights", connection=connection).ref == "raw-weights@1"
    with pytest.raises(errors.FailedPrecondition, match="fine-tune it first"):
        lepton.Deploy(weights).save()
    with pytest.raises(errors.InvalidArgument, match="predict nothing"):
        lepton.evaluate(weights, moods(40).to_pandas())
    with pytest.raises(errors.InvalidArgument, match="has the family 'transformer', not 'mlp'"):
        MLP(pretrained="raw-weights@1", connection=connection).fit(moods(40).to_pandas(), target="mood")


def test_hub_id_is_found_in_its_cache_and_what_is_not_there_is_said(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    _hub_cache(tmp_path, "acme/Tiny-Electra", pretrained_files("electra"))
    found = [base_version("acme/Tiny-Electra", connection) for _ in range(2)]
    assert [version.ref for version in found] == ["acme-tiny-electra-weights@1"] * 2
    assert (found[0].message.lineage.family, found[0].message.description) == ("transformer", "acme/Tiny-Electra")
    with pytest.raises(errors.NotFound, match="acme/Absent"):
        base_version("acme/Absent", connection)


def test_folder_that_is_none_says_what_lacks(connection: Connection, tmp_path: Path) -> None:
    files = pretrained_files()
    del files["model.safetensors"]
    folder = _folder(tmp_path / "pickled", {**files, "pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(errors.InvalidArgument, match=r"lacks model\.safetensors; pytorch_model\.bin is not read"):
        Transformer(pretrained=folder, connection=connection).fit(moods(40).to_pandas(), target="mood")
    with pytest.raises(errors.InvalidArgument, match="no folder"):
        Transformer(pretrained=tmp_path / "nowhere", connection=connection).fit(moods(40).to_pandas(), target="mood")
