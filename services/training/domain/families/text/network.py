"""The encoder with its head, on torch and transformers; loaded by those jobs alone that need them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import BertConfig

from services.training.domain.families.text.encoders import new_encoder, read_config
from services.training.domain.families.text.tokens import PAD_ID, SpecialIds

CONFIG_FILE = "encoder.json"
WEIGHTS_FILE = "weights.safetensors"


class Classifier(nn.Module):
    """A Transformer encoder, the mean over its tokens, and a linear layer.

    Args:
        config: of the encoder: BERT's architecture (Devlin et al., NAACL 2019), or another of `encoders`.
        outputs: classes.
        dropout: of what the linear layer sees.
    """

    def __init__(self, config: Any, outputs: int, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.encoder = new_encoder(config)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, tokens) ids and mask."""
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        shown = attention_mask.unsqueeze(-1).to(found.dtype)
        return self.head(self.dropout((found * shown).sum(dim=1) / shown.sum(dim=1)))


class Learner(nn.Module):
    """A classifier as the training loop takes it: one tensor in.

    Args:
        classifier: what is trained.
        token_dropout: share of the tokens that are read as unknown at each step.
        special: ids that are never hidden, and the one that hides.
    """

    def __init__(self, classifier: Classifier, token_dropout: float, special: SpecialIds) -> None:
        super().__init__()
        self.classifier = classifier
        self._token_dropout = token_dropout
        self._hiding = special.hiding
        self.register_buffer("special", torch.tensor(special.all), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, tokens) ids, padded."""
        ids, mask = cropped(ids, self.classifier.config.pad_token_id)
        if self.training and self._token_dropout:
            is_hidden = torch.rand(ids.shape, device=ids.device) < self._token_dropout
            ids = ids.masked_fill(is_hidden & ~torch.isin(ids, self.special), self._hiding)
        found: Tensor = self.classifier(ids, mask)
        return found


def cropped(ids: Tensor, padding: int = PAD_ID) -> tuple[Tensor, Tensor]:
    """Return padded ids without what is padding in all rows, and their mask; both (rows, tokens) int64."""
    mask = ids != padding
    width = int(mask.any(dim=0).sum())
    return ids[:, :width], mask[:, :width].to(torch.int64)


def new_classifier(settings: Mapping[str, Any], vocabulary: int, outputs: int, seed: int) -> Classifier:
    """Return a classifier of random weights, by the family's hyperparameters."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=int(settings["hidden_size"]),
        num_hidden_layers=int(settings["layers"]),
        num_attention_heads=int(settings["heads"]),
        intermediate_size=4 * int(settings["hidden_size"]),
        max_position_embeddings=int(settings["max_tokens"]),
        hidden_dropout_prob=float(settings["dropout"]),
        attention_probs_dropout_prob=float(settings["dropout"]),
        type_vocab_size=1,
        pad_token_id=PAD_ID,
        # By its width: BERT's own 0.02 is for vectors of 768 and makes narrow encoders learn slowly.
        initializer_range=float(settings["hidden_size"]) ** -0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return Classifier(config, outputs, float(settings["dropout"]))


def freeze_all_but_head(classifier: Classifier) -> None:
    """Let training change the last layer alone."""
    classifier.encoder.requires_grad_(False)


def classifier_files(classifier: Classifier) -> dict[str, bytes]:
    """Return the encoder's configuration as JSON, and all weights as safetensors."""
    head = {"outputs": classifier.head.out_features, "dropout": classifier.dropout.p}
    description = {"encoder": classifier.config.to_diff_dict(), "head": head}
    weights = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    return {CONFIG_FILE: json.dumps(description, sort_keys=True).encode(), WEIGHTS_FILE: save(weights)}


def load_classifier(files: Mapping[str, bytes]) -> Classifier:
    """Return the classifier that gave the files."""
    description = json.loads(files[CONFIG_FILE])
    with torch.random.fork_rng(devices=[]):
        head = description["head"]
        classifier = Classifier(read_config(description["encoder"]), head["outputs"], head["dropout"])
    classifier.load_state_dict(load(files[WEIGHTS_FILE]))
    classifier.eval()
    return classifier
