"""Two texts that are read together become the inputs of one row, as the version's tokenizer.json says."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from lepton.v1 import common_pb2
from lepton.v1 import prediction_pb2 as pb
from servicekit.errors import InvalidArgument
from services.inference.predict.texts import TextReader
from services.inference.serving.model import InputSpec
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import text_model, tokenizer_file

INPUTS = {
    name: InputSpec(name, "INT64", (-1, -1), "batch") for name in ("input_ids", "attention_mask", "token_type_ids")
}


def _reader(most_tokens: int | None = None, strategy: str = "longest_first") -> TextReader:
    """Return a reader that puts [UNK] between two texts."""
    tokenizer = Tokenizer.from_str(tokenizer_file().decode())
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A [UNK] $B:1", special_tokens=[("[UNK]", 1)])
    if most_tokens is not None:
        tokenizer.enable_truncation(most_tokens, strategy=strategy)
    found = TextReader.load(str(tokenizer.to_str()).encode(), INPUTS)
    assert found is not None
    return found


def test_second_text_stands_behind_the_first_and_is_told_from_it() -> None:
    (batch,) = _reader().batches([("good", "bad bad"), ("good good", "bad bad")])
    np.testing.assert_array_equal(batch["input_ids"], [[2, 1, 3, 3, 0], [2, 2, 1, 3, 3]])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def test_longer_text_of_a_pair_is_cut() -> None:
    (batch,) = _reader(4).batches([("good", "bad " * 9)])
    assert batch["input_ids"].tolist() == [[2, 1, 3, 3]]


@pytest.mark.parametrize(
    ("pair", "field", "reason"),
    [
        (("good", ""), "text_pairs[1].second", "TEXT_EMPTY"),
        ((" ", "bad"), "text_pairs[1].first", "TEXT_EMPTY"),
        (("good " * 300, "bad " * 300), "text_pairs[1]", "TEXT_TOO_LONG"),
        (("g" * 50_001, "b" * 50_000), "text_pairs[1]", "TEXT_TOO_LONG"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_place(pair: tuple[str, str], field: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        list(_reader().batches([("good", "bad"), pair]))
    assert (refusal.value.reason, refusal.value.violations[0][0]) == (reason, field)


def test_pair_that_the_file_cannot_cut_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        list(_reader(4, "only_first").batches([("good", "bad " * 9)]))
    assert refusal.value.reason == "TEXT_TOO_LONG"


async def _deploy(bureau: Bureau, name: str, columns: list[str]) -> None:
    signature = common_pb2.Signature(classes=["short", "long"], task="binary", text_columns=columns)
    for tensor in ("input_ids", "attention_mask"):
        signature.inputs.add(name=tensor, datatype="INT64", shape=[-1, -1])
    signature.outputs.add(name="logits", datatype="FP32", shape=[-1, 2])
    files = {"model.onnx": text_model(), "tokenizer.json": tokenizer_file(64)}
    await bureau.deploy(name, files, signature=signature)


async def test_model_is_asked_of_as_many_texts_together_as_it_reads(bureau: Bureau) -> None:
    for name, columns in (("pairs", ["a", "b"]), ("single", ["a"]), ("unknown", [])):
        await _deploy(bureau, name, columns)
    pairs = pb.PredictRequest(text_pairs=[pb.TextPair(first="good", second="bad bad")] * 3)
    single = pb.PredictRequest(texts=["good"] * 3)
    # Of one made elsewhere whoever made it knows.
    for name, request in (("pairs", pairs), ("single", single), ("unknown", pairs), ("unknown", single)):
        request.deployment = name
        answer = await bureau.stub.Predict(request, metadata=bureau.who("viewer"))
        assert [one.label for one in answer.predictions] == ["long"] * 3
    for name, request in (("pairs", single), ("single", pairs)):
        request.deployment = name
        with pytest.raises(InvalidArgument) as refusal:
            await bureau.stub.Predict(request, metadata=bureau.who("viewer"))
        assert refusal.value.reason == "WRONG_TEXTS"
