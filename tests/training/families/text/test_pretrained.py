"""A fit begins from an encoder as its makers publish it, or from the body of a model of ours."""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel

from servicekit.errors import InvalidArgument
from services.inference.predict.texts import TextReader
from services.inference.serving.model import InputSpec
from services.training.domain.families import fitting
from services.training.domain.families.bodies import read_body
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Model, Run
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.text.model import TextModel

WORDS = ["good", "fine", "nice", "bad", "poor", "ugly", "the", "room", "is", "not"]
# What each architecture calls its sizes.
SIZES: dict[str, dict[str, object]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "electra": {
        "embedding_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "roberta": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "xlm-roberta": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
}
FEW: dict[str, object] = {"epochs": 2, "batch_size": 8, "max_tokens": 12}


def tokenizer_of(architecture: str, *, knows_pairs: bool = False) -> Tokenizer:
    """Return a tokenizer of words, with the special tokens that an architecture's have and where they have them."""
    is_roberta = "roberta" in architecture
    special = ["<s>", "<pad>", "</s>", "<unk>"] if is_roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    begin, end = ("<s>", "</s>") if is_roberta else ("[CLS]", "[SEP]")
    vocabulary = {token: place for place, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>" if is_roberta else "[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1" if knows_pairs else None,
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return tokenizer


def pretrained_files(
    architecture: str = "bert", prefix: str = "", *, knows_pairs: bool = False, **config: object
) -> dict[str, bytes]:
    """Return the files of a small encoder of random weights, as the hub has them."""
    tokenizer = tokenizer_of(architecture, knows_pairs=knows_pairs)
    padding = 1 if "roberta" in architecture else 0
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 20, "pad_token_id": padding}
    described = AutoConfig.for_model(architecture, **{**sizes, **SIZES[architecture], **config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = AutoModel.from_config(described)
    weights = {prefix + name: value.contiguous() for name, value in encoder.state_dict().items()}
    return {
        "config.json": json.dumps(described.to_diff_dict()).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "model.safetensors": save(weights),
    }


def moods(rows: int = 48, seed: int = 2) -> pa.Table:
    draw = np.random.default_rng(seed)
    words = np.array(WORDS)
    is_good = np.arange(rows) % 2 == 0
    texts = [" ".join(words[draw.integers(0, 3, int(draw.integers(2, 8))) + (0 if good else 3)]) for good in is_good]
    return pa.table({"text": texts, "mood": np.where(is_good, "up", "down")})


def fit(
    files: Mapping[str, bytes],
    table: pa.Table,
    target: str = "mood",
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
) -> TextModel:
    resolved = resolve_hyperparameters("transformer", {**FEW, **(settings or {})}, has_body=True)
    schema = fitting.describe("transformer", table, target, resolved)
    body = read_body("transformer", files)
    model: Model = fitting.fit(
        "transformer", schema, table, Run(resolved, seed, lambda _: None, lambda: False), body=body
    )
    assert isinstance(model, TextModel)
    return model


# Each export takes some seconds; those that are much like another are for all tests.
@pytest.mark.parametrize(
    "architecture",
    [name if name in ("bert", "roberta") else pytest.param(name, marks=pytest.mark.slow) for name in SIZES],
)
def test_every_architecture_is_fitted_exported_and_loaded_again(architecture: str) -> None:
    model = fit(pretrained_files(architecture), moods())
    parity = measure_parity(model, model.export(), moods(seed=3))
    assert (parity.max_difference < 1e-5, parity.label_mismatches) == (True, 0)
    loaded = fitting.load(model.files())
    assert loaded.files() == model.files()
    np.testing.assert_array_equal(loaded.predict(moods()).probabilities, model.predict(moods()).probabilities)
    shape = {name: model.hyperparameters[name] for name in ("layers", "hidden_size", "heads")}
    assert shape == {"layers": 2, "hidden_size": 16, "heads": 2}


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_serving_reads_texts_as_training_does(architecture: str) -> None:
    files = pretrained_files(architecture)
    model = fit(files, moods())
    specs = {one.name: InputSpec(one.name, one.datatype, one.shape) for one in model.inputs()}
    reader = TextReader.load(model.files()["tokenizer.json"], specs)
    assert reader is not None
    # Of one length, and longer than what is read.
    table = pa.table(
        {"text": ["good room", "ugly unheard", "the room is not nice " * 9], "mood": ["up", "down", "down"]}
    )
    ((places, trained),) = list(model.feeds(table))
    (served,) = reader.batches([table["text"][int(place)].as_py() for place in places])
    for name, values in trained.items():
        np.testing.assert_array_equal(served[name], values)
    assert trained["input_ids"].shape == (3, 12)


def test_weights_are_those_of_the_folder_whatever_head_they_were_stored_with() -> None:
    bare, stored = pretrained_files(), pretrained_files(prefix="bert.")
    settings: dict[str, object] = {"trainable": "last", "epochs": 1}
    model = fit(bare, moods(), settings=settings)
    assert model.files() == fit(stored, moods(), settings=settings).files()
    kept = model.network.encoder.state_dict()["embeddings.word_embeddings.weight"]
    from safetensors.torch import load

    assert kept.equal(load(bare["model.safetensors"])["embeddings.word_embeddings.weight"])


def test_same_folder_rows_and_seed_give_the_same_files_and_another_seed_others() -> None:
    first, again, other = (fit(pretrained_files(), moods(), seed=seed) for seed in (3, 3, 4))
    assert first.files() == again.files()
    assert first.files()["weights.safetensors"] != other.files()["weights.safetensors"]


def test_model_of_ours_is_a_body_for_other_labels_and_stays_what_it_is() -> None:
    parent = fit(pretrained_files(), moods())
    before = parent.files()
    topics = pa.table({"text": moods()["text"], "topic": ["a", "b", "c"] * 16})
    child = fit(before, topics, "topic", {"trainable": "last", "epochs": 1})
    assert child.target.classes == ("a", "b", "c")
    was, now = parent.network.encoder.state_dict(), child.network.encoder.state_dict()
    assert all(was[name].equal(now[name]) for name in was)
    assert parent.files() == before


def test_dropped_tokens_are_never_special_ones() -> None:
    # Nearly all are dropped: were padding among them, the mask would not fit.
    model = fit(pretrained_files("roberta"), moods(), settings={"token_dropout": 0.9})
    assert np.isfinite(fitting.evaluate(model, moods(seed=3)).metrics["log_loss"])


def _without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in files.items() if key != name}


def _config(**changed: object) -> dict[str, bytes]:
    files = pretrained_files()
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), **changed}).encode()}


@pytest.mark.parametrize(
    ("files", "reason", "says"),
    [
        (_without(pretrained_files(), "config.json"), "BAD_PRETRAINED", "config.json"),
        (_without(pretrained_files(), "model.safetensors"), "BAD_PRETRAINED", "safetensors"),
        (_config(model_type="gpt2"), "UNKNOWN_ARCHITECTURE", "bert, distilbert, electra"),
        (_config(hidden_size=32), "BAD_PRETRAINED", "shape"),
        (_config(num_hidden_layers=3), "BAD_PRETRAINED", "lack"),
        (_config(vocab_size=9), "BAD_PRETRAINED", "different models"),
        (_config(num_attention_heads=3), "BAD_PRETRAINED", "config.json"),
        ({**pretrained_files(), "tokenizer.json": b'{"version": "1.0"}'}, "BAD_PRETRAINED", "tokenizer"),
    ],
)
def test_what_is_no_pretrained_encoder_is_refused(files: dict[str, bytes], reason: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        fit(files, moods())
    assert refused.value.reason == reason


def test_code_that_a_configuration_names_is_not_looked_at() -> None:
    named = _config(auto_map={"AutoModel": "evil.Model"}, _attn_implementation="none-such")
    assert fit(named, moods(), settings={"epochs": 1}).network.config.model_type == "bert"


@pytest.mark.parametrize("given", [{"layers": 3}, {"pretraining_epochs": 2}])
def test_what_the_base_brings_along_cannot_be_set(given: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="base version brings its own") as refused:
        resolve_hyperparameters("transformer", given, has_body=True)
    assert refused.value.reason == "HYPERPARAMETER_OF_BASE"


def test_family_that_begins_from_nothing_says_which_do() -> None:
    with pytest.raises(InvalidArgument, match="transformer, cnn") as refused:
        resolve_hyperparameters("mlp", {}, has_body=True)
    assert refused.value.reason == "BASE_NOT_TAKEN"


def test_a_fit_that_goes_on_from_a_version_takes_small_steps_unless_told_otherwise() -> None:
    more = resolve_hyperparameters("transformer", {"trainable": "all"}, continues=True)
    assert (more["learning_rate"], more["token_dropout"]) == (1e-4, 0.0)
    told = resolve_hyperparameters("transformer", {"learning_rate": 5e-4}, continues=True)
    assert told["learning_rate"] == 5e-4
    # Those without such defaults of their own keep the others.
    assert resolve_hyperparameters("mlp", {}, continues=True) == resolve_hyperparameters("mlp", {})
