"""Which files of a folder of pretrained weights travel, and what is said of a folder that is none."""

import json
from pathlib import Path

import pytest

from lepton import errors
from lepton.pretrained import _folder_files

PLAIN = ("config.json", "tokenizer.json")


def _folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).write_bytes(b"{}")
    return path


def test_what_is_read_travels_and_nothing_else(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, *PLAIN, "model.safetensors", "vocab.txt", "README.md", "pytorch_model.bin", "modules.json"
    )
    assert set(_folder_files(folder)) == {*PLAIN, "model.safetensors"}


def test_weights_in_several_files_are_found_by_their_index(tmp_path: Path) -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = _folder(tmp_path, *PLAIN, *shards)
    index = {"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(_folder_files(folder)) == {*PLAIN, *shards}
    (folder / shards[1]).unlink()
    with pytest.raises(errors.InvalidArgument, match=r"lacks model-00002-of-00002\.safetensors") as refused:
        _folder_files(folder)
    assert refused.value.reason == "PRETRAINED_INCOMPLETE"


def test_index_leads_nowhere_outside_of_the_folder(tmp_path: Path) -> None:
    folder = _folder(tmp_path, *PLAIN)
    index = {"weight_map": {"a": "../../etc/secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.InvalidArgument, match=r"lacks secret\.safetensors"):
        _folder_files(folder)


def test_model_of_ours_travels_with_all_that_it_is_read_by(tmp_path: Path) -> None:
    own = ("family.json", "image.json", "network.json", "weights.safetensors")
    assert set(_folder_files(_folder(tmp_path, *own, "model.onnx"))) == set(own)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "lacks config.json, tokenizer.json, model.safetensors"),
        (("config.json", "model.safetensors"), "lacks tokenizer.json"),
        ((*PLAIN, "pytorch_model.bin"), "lacks model.safetensors; pytorch_model.bin is not read"),
        (("family.json",), r"lacks \*.safetensors"),
    ],
)
def test_folder_that_is_none_says_what_lacks(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=says):
        _folder_files(_folder(tmp_path, *names))
