"""The encoder with its head, on torch and transformers; loaded by those jobs alone that need them."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import BertConfig

from services.training.domain.families.text.encoders import new_encoder, read_config
from services.training.domain.families.text.phrases import Phrases
from services.training.domain.families.text.splitting import TokenSplitting
from services.training.domain.families.text.tokens import PAD_ID, SpecialIds

if TYPE_CHECKING:
    from services.training.domain.families.text.embedder import Embedder

CONFIG_FILE = "encoder.json"
WEIGHTS_FILE = "weights.safetensors"


class Classifier(nn.Module):
    """A Transformer encoder, the mean over its tokens, and a linear layer; beside them, once fitted, phrases.

    Args:
        config: of the encoder: BERT's architecture (Devlin et al., NAACL 2019), or another of `encoders`.
        outputs: classes; one for a number.
        dropout: of what the linear layer sees.
        separator: the token between two texts that are read together; None where one is read alone.
    """

    def __init__(self, config: Any, outputs: int, dropout: float, separator: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.separator = separator
        self.encoder = new_encoder(config)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, outputs)
        self.phrases: Phrases | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (rows, classes) log odds, or (rows, 1) numbers, of (rows, tokens) ids and mask."""
        shown = without_padding(input_ids, attention_mask, self.config.pad_token_id)
        found = token_vectors(self.encoder, input_ids, shown, self.separator)
        odds: Tensor = self.head(self.dropout(mean_of_tokens(found, shown)))
        # Their mean: both saw the same texts, and the sum would be too sure of itself.
        return odds if self.phrases is None else 0.5 * (odds + self.phrases(input_ids))


class Learner(nn.Module):
    """A network as the training loop takes it: one tensor in.

    Args:
        classifier: what is trained.
        token_dropout: share of the tokens that are read as unknown at each step.
        special: ids that are never hidden, and the one that hides.
        splitting: reads some tokens as their parts at each step.
    """

    def __init__(
        self,
        classifier: "Classifier | Embedder",
        token_dropout: float,
        special: SpecialIds,
        splitting: TokenSplitting | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self._splitting = splitting
        self._token_dropout = token_dropout
        self._hiding = special.hiding
        self.register_buffer("special", torch.tensor(special.all), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return what it gives of (rows, tokens) ids, padded."""
        if self.training and self._splitting is not None:
            ids = self._splitting(ids)
        ids, mask = cropped(ids, self.classifier.config.pad_token_id)
        if self.training and self._token_dropout:
            is_hidden = torch.rand(ids.shape, device=ids.device) < self._token_dropout
            ids = ids.masked_fill(is_hidden & ~torch.isin(ids, self.special), self._hiding)
        found: Tensor = self.classifier(ids, mask)
        return found


def token_vectors(encoder: nn.Module, ids: Tensor, mask: Tensor, separator: int | None) -> Tensor:
    """Return (rows, tokens, size) vectors of (rows, tokens) ids and mask; behind the separator stands a second text.

    That follows from the ids, so that whoever sends tokens need not say which text each is of.
    """
    # An encoder that knows one kind of text has the separator alone to tell by.
    if separator is None or getattr(encoder.config, "type_vocab_size", 1) == 1:
        found: Tensor = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return found
    is_separator = (ids == separator).to(torch.int64)
    segments = (is_separator.cumsum(dim=1) - is_separator).clamp(max=1)
    found = encoder(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
    return found


def without_padding(ids: Tensor, mask: Tensor, padding: int) -> Tensor:
    """Return a (rows, tokens) mask that shows no padding, whatever it showed before.

    A text may spell the padding token itself, and whoever serves it masks what a tokenizer adds alone: training looks
    at ids. So this is the network's to do, and with it the export's.
    """
    return mask * (ids != padding).to(mask.dtype)


def mean_of_tokens(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return (rows, size): the mean of (rows, tokens, size) vectors that a (rows, tokens) mask shows; 0 of none."""
    shown = mask.unsqueeze(-1).to(vectors.dtype)
    # A text of nothing but the padding token shows none.
    return (vectors * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1.0)


def cropped(ids: Tensor, padding: int = PAD_ID) -> tuple[Tensor, Tensor]:
    """Return padded ids without the columns behind the last token of any row, and their mask; (rows, tokens) int64."""
    mask = ids != padding
    # Not how many columns hold a token: padding may stand within a text that spells it.
    filled = mask.any(dim=0).nonzero()
    width = int(filled[-1]) + 1 if len(filled) else 0
    return ids[:, :width], mask[:, :width].to(torch.int64)


def encoder_config(settings: Mapping[str, Any], vocabulary: int, segments: int = 1) -> BertConfig:
    """Return an encoder's configuration, by the family's hyperparameters; it tells as many texts apart in one row."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=int(settings["hidden_size"]),
        num_hidden_layers=int(settings["layers"]),
        num_attention_heads=int(settings["heads"]),
        intermediate_size=4 * int(settings["hidden_size"]),
        max_position_embeddings=int(settings["max_tokens"]),
        hidden_dropout_prob=float(settings["dropout"]),
        attention_probs_dropout_prob=float(settings["attention_dropout"]),
        type_vocab_size=segments,
        pad_token_id=PAD_ID,
        # By its width: BERT's own 0.02 is for vectors of 768 and makes narrow encoders learn slowly.
        initializer_range=float(settings["hidden_size"]) ** -0.5,
    )


def new_classifier(
    settings: Mapping[str, Any], vocabulary: int, outputs: int, seed: int, separator: int | None = None
) -> Classifier:
    """Return a classifier of random weights, by the family's hyperparameters; with a separator, of pairs."""
    config = encoder_config(settings, vocabulary, segments=1 if separator is None else 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return Classifier(config, outputs, float(settings["dropout"]), separator)


def scale_answers(classifier: Classifier, spread: float, offset: float) -> None:
    """Have the last layer give its number times a spread, plus an offset."""
    with torch.no_grad():
        classifier.head.weight.mul_(spread)
        classifier.head.bias.mul_(spread).add_(offset)


def freeze_all_but_head(classifier: Classifier) -> None:
    """Let training change the last layer alone."""
    classifier.encoder.requires_grad_(False)


def classifier_files(classifier: Classifier) -> dict[str, bytes]:
    """Return the encoder's configuration as JSON, and all weights as safetensors."""
    head: dict[str, float | int | bool] = {"outputs": classifier.head.out_features, "dropout": classifier.dropout.p}
    if classifier.separator is not None:
        head["separator"] = classifier.separator
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
        config = read_config(description["encoder"])
        classifier = Classifier(config, head["outputs"], head["dropout"], head.get("separator"))
    if head.get("phrases"):
        classifier.phrases = Phrases(classifier.config.vocab_size, head["outputs"])
    classifier.load_state_dict(load(files[WEIGHTS_FILE]))
    classifier.eval()
    return classifier
