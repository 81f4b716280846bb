"""What a fit of texts begins from: an encoder with its tokenizer, as a folder has them or another model of ours."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor

from servicekit.errors import InvalidArgument
from services.training.domain.families.model import Settings
from services.training.domain.families.text.embedder import Embedder
from services.training.domain.families.text.encoders import most_tokens, read_config
from services.training.domain.families.text.model import TOKENIZER_FILE, TextModel, shape_settings
from services.training.domain.families.text.network import Classifier

CONFIG_FILE = "config.json"
_WEIGHTS = ".safetensors"
# A file that was stored from a model with a head has its encoder under the architecture's name.
_PREFIXES = ("bert.", "distilbert.", "electra.", "roberta.", "model.", "encoder.")
# As TensorFlow called them.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_SEPARATING = ("[SEP]", "</s>")
_PADDING_TOKENS = ("[PAD]", "<pad>")
_NAMED = 3


@dataclass(frozen=True)
class TextBody:
    """An encoder with its tokenizer.

    Args:
        tokenizer: texts to token ids; it may be changed.
        config: of the encoder.
        weights: of the encoder, by name.
    """

    tokenizer: Tokenizer
    config: Any
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: TextModel) -> "TextBody":
        """Return a model's; the model stays what it is."""
        config = read_config(model.network.config.to_dict())
        return cls(Tokenizer.from_str(model.tokenizer.to_str()), config, model.network.encoder.state_dict())

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> "TextBody":
        """Return the one that files of a pretrained folder hold.

        Raises:
            InvalidArgument: they hold none that is read here; the message says what is wrong.
        """
        lacking = [name for name in (CONFIG_FILE, TOKENIZER_FILE) if name not in files]
        weights: dict[str, Tensor] = {}
        for name, content in files.items():
            if name.endswith(_WEIGHTS):
                weights |= load(content)
        if lacking or not weights:
            missing = ", ".join([*lacking, *([] if weights else ["weights (.safetensors)"])])
            raise InvalidArgument(f"the pretrained version lacks {missing}", reason="BAD_PRETRAINED")
        return cls(_tokenizer(files[TOKENIZER_FILE]), read_config(json.loads(files[CONFIG_FILE])), weights)

    def begin(
        self, settings: Settings, outputs: int, seed: int, *, for_pairs: bool = False
    ) -> tuple[Tokenizer, Classifier]:
        """Return the tokenizer, and a classifier with this encoder and a head of random weights.

        Args:
            settings: hyperparameters: dropout, and max_tokens, as far as the encoder goes.
            outputs: classes; 1 for a number.
            seed: of the head.
            for_pairs: whether two texts are read together.

        Raises:
            InvalidArgument: tokenizer, configuration and weights do not go together, or know no pairs.
        """
        tokenizer, config = self._prepared(settings)
        separator = _separator(tokenizer) if for_pairs else None
        with torch.random.fork_rng(devices=[]), _described():
            torch.manual_seed(seed % 2**63)
            classifier = Classifier(config, outputs, float(settings["dropout"]), separator)
        _load(classifier, self.weights)
        return tokenizer, classifier

    def begin_embedder(self, settings: Settings) -> tuple[Tokenizer, Embedder]:
        """Return the tokenizer, and this encoder as it gives vectors; as for `begin`."""
        tokenizer, config = self._prepared(settings)
        with torch.random.fork_rng(devices=[]), _described():
            embedder = Embedder(config)
        _load(embedder, self.weights)
        return tokenizer, embedder

    def shape(self, tokenizer: Tokenizer) -> dict[str, int | float | str | bool]:
        """Return the hyperparameters that a body brings along, so that a model tells what it is."""
        return shape_settings(self.config, tokenizer)

    def _prepared(self, settings: Settings) -> tuple[Tokenizer, Any]:
        """Return tokenizer and configuration as a fit's settings want them."""
        tokenizer, config = self.tokenizer, self.config
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise InvalidArgument(
                f"the tokenizer knows {tokenizer.get_vocab_size():,} tokens and the encoder {config.vocab_size:,}: "
                "they are of different models",
                reason="BAD_PRETRAINED",
            )
        _set_dropout(config, float(settings["dropout"]), float(settings["attention_dropout"]))
        config.pad_token_id = _padding(tokenizer)
        tokenizer.enable_padding(pad_id=config.pad_token_id, pad_token=tokenizer.id_to_token(config.pad_token_id))
        tokenizer.enable_truncation(min(int(settings["max_tokens"]), most_tokens(config)))
        return tokenizer, config


def _tokenizer(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except BaseException as error:
        # A panic of the library is no Exception; an interrupt is none of its own.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InvalidArgument(
            f"{TOKENIZER_FILE} describes no tokenizer: {str(error)[:200]}", reason="BAD_PRETRAINED"
        ) from error


def _padding(tokenizer: Tokenizer) -> int:
    """Return the id that pads texts."""
    declared = tokenizer.padding or {}
    known = [declared.get("pad_id"), *(tokenizer.token_to_id(token) for token in _PADDING_TOKENS)]
    found = next((number for number in known if number is not None), None)
    if found is None or tokenizer.id_to_token(int(found)) is None:
        raise InvalidArgument(
            f"{TOKENIZER_FILE} names no token that pads texts: expected one of {', '.join(_PADDING_TOKENS)}",
            reason="BAD_PRETRAINED",
        )
    return int(found)


def _set_dropout(config: Any, dropout: float, of_attention: float) -> None:
    # Each architecture has names of its own.
    shares = {
        "hidden_dropout_prob": dropout,
        "dropout": dropout,
        "attention_probs_dropout_prob": of_attention,
        "attention_dropout": of_attention,
    }
    for name, share in shares.items():
        if hasattr(config, name):
            setattr(config, name, share)


def _separator(tokenizer: Tokenizer) -> int:
    """Return the token that stands between two texts."""
    between = tokenizer.encode("a", "b").tokens
    found = next((tokenizer.token_to_id(token) for token in _SEPARATING if token in between), None)
    if found is None:
        raise InvalidArgument(
            f"its tokenizer puts nothing between two texts: expected one of {', '.join(_SEPARATING)}; begin from an "
            "encoder that reads pairs",
            reason="NO_PAIRS",
        )
    return int(found)


@contextmanager
def _described() -> Iterator[None]:
    """Say what is wrong with a configuration that no encoder can be made of."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise InvalidArgument(
            f"config.json describes no encoder: {str(error)[:200]}", reason="BAD_PRETRAINED"
        ) from error


def _load(network: Classifier | Embedder, weights: Mapping[str, Tensor]) -> None:
    """Put weights into an encoder; what they hold beside it, another head say, is left."""
    wanted = network.encoder.state_dict()
    found = _renamed(weights, wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InvalidArgument(
            f"the weights lack {len(missing)} tensors of the encoder that config.json describes: "
            f"{', '.join(missing[:_NAMED])}, ...",
            reason="BAD_PRETRAINED",
        )
    other = next((name for name in wanted if found[name].shape != wanted[name].shape), None)
    if other is not None:
        raise InvalidArgument(
            f"{other} has shape {list(found[other].shape)} in the weights, and {list(wanted[other].shape)} by "
            "config.json: they are of different models",
            reason="BAD_PRETRAINED",
        )
    network.encoder.load_state_dict({name: found[name].to(wanted[name].dtype) for name in wanted})


def _renamed(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for given, value in weights.items():
        name = given
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        # As it is, or without the prefix: an encoder of ours has parts called "encoder", too.
        for prefix in ("", *_PREFIXES):
            if name.startswith(prefix) and name.removeprefix(prefix) in wanted:
                found[name.removeprefix(prefix)] = value
                break
    return found
