"""The encoder with its head, on torch and transformers; loaded by those jobs alone that need them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from services.training.domain.families.text.phrases import Phrases
from services.training.domain.families.text.splitting import TokenSplitting
from services.training.domain.families.text.tokens import PAD_ID, START_ID, UNKNOWN_ID

CONFIG_FILE = "encoder.json"
WEIGHTS_FILE = "weights.safetensors"


class Classifier(nn.Module):
    """A Transformer encoder, the mean over its tokens, and a linear layer; beside them, once fitted, phrases.

    Args:
        config: of the encoder (BERT's architecture; Devlin et al., NAACL 2019).
        outputs: classes.
        dropout: of what the linear layer sees.
    """

    def __init__(self, config: BertConfig, outputs: int, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, outputs)
        self.phrases: Phrases | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, tokens) ids and mask."""
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        shown = attention_mask.unsqueeze(-1).to(found.dtype)
        odds: Tensor = self.head(self.dropout((found * shown).sum(dim=1) / shown.sum(dim=1)))
        # Their mean: both saw the same texts, and the sum would be too sure of itself.
        return odds if self.phrases is None else 0.5 * (odds + self.phrases(input_ids))


class Learner(nn.Module):
    """A classifier as the training loop takes it: one tensor in.

    Args:
        classifier: what is trained.
        token_dropout: share of the tokens that are read as unknown at each step.
        splitting: reads some tokens as their parts at each step.
    """

    def __init__(self, classifier: Classifier, token_dropout: float, splitting: TokenSplitting | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self._splitting = splitting
        self._token_dropout = token_dropout

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, tokens) ids, padded."""
        if self.training and self._splitting is not None:
            ids = self._splitting(ids)
        ids, mask = cropped(ids)
        if self.training and self._token_dropout:
            is_hidden = (torch.rand(ids.shape, device=ids.device) < self._token_dropout) & (ids > START_ID)
            ids = ids.masked_fill(is_hidden, UNKNOWN_ID)
        found: Tensor = self.classifier(ids, mask)
        return found


def cropped(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return padded ids without what is padding in all rows, and their mask; both (rows, tokens) int64."""
    mask = ids != PAD_ID
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
    head: dict[str, Any] = {"outputs": classifier.head.out_features, "dropout": classifier.dropout.p}
    if classifier.phrases is not None:
        head["phrases"] = True
    description = {"encoder": classifier.config.to_diff_dict(), "head": head}
    weights = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    return {CONFIG_FILE: json.dumps(description, sort_keys=True).encode(), WEIGHTS_FILE: save(weights)}


def load_classifier(files: Mapping[str, bytes]) -> Classifier:
    """Return the classifier that gave the files."""
    description = json.loads(files[CONFIG_FILE])
    with torch.random.fork_rng(devices=[]):
        head = description["head"]
        classifier = Classifier(BertConfig.from_dict(description["encoder"]), head["outputs"], head["dropout"])
    if head.get("phrases"):
        classifier.phrases = Phrases(classifier.config.vocab_size, head["outputs"])
    classifier.load_state_dict(load(files[WEIGHTS_FILE]))
    classifier.eval()
    return classifier
