"""The encoders that texts are read by, by their architecture's name; on transformers, and never by code of a model.

Each is made of its configuration alone: what a configuration names beside that, code say, is not looked at.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from servicekit.errors import InvalidArgument

_OWN = "bert"
# Configuration, encoder, and what it is made with: no pooling layer, for the mean over tokens is taken.
_ENCODERS: Mapping[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "bert": (BertConfig, BertModel, {"add_pooling_layer": False}),
    "distilbert": (DistilBertConfig, DistilBertModel, {}),
    "electra": (ElectraConfig, ElectraModel, {}),
    "roberta": (RobertaConfig, RobertaModel, {"add_pooling_layer": False}),
    "xlm-roberta": (XLMRobertaConfig, XLMRobertaModel, {"add_pooling_layer": False}),
}


# What says how to compute, or which code to load: neither is the weights' to say.
_LEFT_OUT = ("_attn_implementation", "attn_implementation", "auto_map", "quantization_config", "_name_or_path")


def read_config(described: Mapping[str, Any]) -> Any:
    """Return the configuration that JSON describes.

    Raises:
        InvalidArgument: it is of an architecture that is not read, or no configuration.
    """
    architecture = str(described.get("model_type", _OWN))
    if architecture not in _ENCODERS:
        raise InvalidArgument(
            f"the encoder's architecture is {architecture!r}: read are {', '.join(_ENCODERS)}",
            reason="UNKNOWN_ARCHITECTURE",
        )
    try:
        left = {name: value for name, value in described.items() if name not in _LEFT_OUT}
        return _ENCODERS[architecture][0].from_dict(left)
    except Exception as error:
        # The library checks in a dozen ways what it is given.
        raise InvalidArgument(
            f"config.json is no configuration of {architecture}: {str(error)[:200]}", reason="BAD_PRETRAINED"
        ) from error


def new_encoder(config: Any) -> nn.Module:
    """Return an encoder of random weights."""
    _, encoder, options = _ENCODERS[config.model_type]
    made: nn.Module = encoder(config, **options)
    return made


def most_tokens(config: Any) -> int:
    """Return how many tokens of a text an encoder can tell the places of."""
    # RoBERTa counts places from behind its padding's id.
    taken = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return int(config.max_position_embeddings) - taken
