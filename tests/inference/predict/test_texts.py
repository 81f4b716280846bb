"""Texts become tokens as the version's tokenizer.json says, within limits."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import common_pb2, registry_pb2
from lepton.v1 import prediction_pb2 as pb
from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.predict.preprocessing import load_preprocessing
from services.inference.serving.loading import load_model
from services.inference.serving.model import Array, LoadedModel, Preprocessing
from tests.inference.models import columns
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import text_model, tokenizer_file

IDS = {"good": 2, "bad": 3}


def model(width: int | str = "tokens") -> LoadedModel:
    return load_model("texts", registry_pb2.Version(number=1, digest="d"), text_model(width))


MODEL = model()


def reader(content: bytes, served: LoadedModel = MODEL) -> Preprocessing:
    found = load_preprocessing({"tokenizer.json": content}, served.inputs)
    assert found is not None
    return found


def ids(batches: list[dict[str, Array]]) -> list[list[int]]:
    """Return each text's ids without its padding."""
    return [
        row[mask == 1].tolist()
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


@given(st.lists(st.lists(st.sampled_from(["good", "bad", "odd"]), min_size=1, max_size=40), min_size=1, max_size=200))
def test_each_text_keeps_its_tokens_and_its_place(words: list[list[str]]) -> None:
    batches = list(reader(tokenizer_file()).batches([" ".join(text) for text in words]))
    assert ids(batches) == [[IDS.get(word, 1) for word in text] for text in words]
    assert all(batch["input_ids"].shape[0] <= 64 for batch in batches)
    assert all(batch["attention_mask"].any(axis=0).all() for batch in batches), "padded beyond the longest"


def test_long_texts_are_cut_where_the_file_says_so_and_refused_where_not() -> None:
    assert ids(list(reader(tokenizer_file(3)).batches(["good bad good bad"]))) == [[2, 3, 2]]
    with pytest.raises(InvalidArgument, match=r"texts\[1\]: expected at most 512 tokens, got 513") as refusal:
        list(reader(tokenizer_file()).batches(["good", "good " * 513]))
    assert (refusal.value.reason, refusal.value.violations[0][0]) == ("TEXT_TOO_LONG", "texts[1]")
    assert len(ids(list(reader(tokenizer_file(1 << 30)).batches(["good " * 9000])))[0]) == 8192
    with pytest.raises(InvalidArgument, match="100,000 characters"):
        list(reader(tokenizer_file(8)).batches(["g" * 100_001]))
    with pytest.raises(InvalidArgument, match="a token in it"):
        list(reader(tokenizer_file()).batches([""]))


def test_many_long_texts_run_in_several_batches() -> None:
    batches = list(reader(tokenizer_file(512)).batches(["good " * 512] * 40))
    assert [len(batch["input_ids"]) for batch in batches] == [32, 8]


def test_graph_of_a_fixed_width_gets_it() -> None:
    found = reader(tokenizer_file(), model(4))
    assert [batch["input_ids"].tolist() for batch in found.batches(["good bad"])] == [[[2, 3, 0, 0]]]
    with pytest.raises(InvalidArgument, match="at most 4 tokens"):
        list(found.batches(["good bad good bad good"]))


def test_padding_goes_where_the_file_says() -> None:
    (batch,) = reader(tokenizer_file(direction="left", pad_id=3, length=9)).batches(["good", "good good"])
    np.testing.assert_array_equal(batch["input_ids"], [[3, 2], [2, 2]])
    np.testing.assert_array_equal(batch["attention_mask"], [[0, 1], [1, 1]])


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Evil"}}', json.dumps([1]).encode()])
def test_file_that_is_no_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        reader(content)
    assert refusal.value.reason == "PREPROCESSING_UNREADABLE"


def test_model_of_columns_has_no_use_for_a_tokenizer() -> None:
    assert load_preprocessing({"tokenizer.json": tokenizer_file()}, columns().inputs) is None


async def test_text_becomes_a_label(bureau: Bureau) -> None:
    signature = common_pb2.Signature(classes=["short", "long"], task="binary")
    signature.inputs.add(name="input_ids", datatype="INT64", shape=[-1, -1])
    signature.inputs.add(name="attention_mask", datatype="INT64", shape=[-1, -1])
    signature.outputs.add(name="logits", datatype="FP32", shape=[-1, 2])
    files = {"model.onnx": text_model(), "tokenizer.json": tokenizer_file(64)}
    await bureau.deploy("texts", files, signature=signature)
    texts = ["odd", "odd odd", *itertools.repeat("good bad", 100)]
    request = pb.PredictRequest(deployment="texts", texts=texts)
    answer = await bureau.stub.Predict(request, metadata=bureau.who("viewer"))
    assert len(answer.predictions) == 102
    assert answer.predictions[0].probabilities == {"short": 0.5, "long": 0.5}
    assert {prediction.label for prediction in answer.predictions[2:]} == {"long"}
    # softmax of 2 tokens against a sum of 5.
    assert abs(answer.predictions[-1].probabilities["long"] - 1 / (1 + np.exp(2 - 5))) < 1e-6
    with pytest.raises(FailedPrecondition) as refusal:
        await bureau.stub.Predict(pb.PredictRequest(deployment="credit", texts=["a"]), metadata=bureau.who())
    assert refusal.value.reason == "NO_PREPROCESSING"
