"""The encoder as it gives vectors, and how it learns them: texts that belong together against all others of a batch.

Sources: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017 (other rows' texts as
negatives); Gao et al., SimCSE: Simple Contrastive Learning of Sentence Embeddings, EMNLP 2021 (cosines by temperature).
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from services.training.domain.families.text.encoders import new_encoder, read_config
from services.training.domain.families.text.network import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Learner,
    encoder_config,
    mean_of_tokens,
    without_padding,
)


class Embedder(nn.Module):
    """A Transformer encoder and the mean over its tokens, as a vector of length 1.

    Args:
        config: of the encoder: BERT's architecture (Devlin et al., NAACL 2019), or another of `encoders`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.encoder = new_encoder(config)
        # It reads one text at a time.
        self.separator: int | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (rows, size) vectors of (rows, tokens) ids and mask."""
        shown = without_padding(input_ids, attention_mask, self.config.pad_token_id)
        found = self.encoder(input_ids=input_ids, attention_mask=shown).last_hidden_state
        return nn.functional.normalize(mean_of_tokens(found, shown), dim=1)


class PairLearner(nn.Module):
    """Reads two texts of a row, each by itself.

    Args:
        learner: of an embedder.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, 2, size) vectors of (rows, 2, tokens) ids, padded: a text and the one it belongs to."""
        return torch.stack([self.learner(ids[:, 0]), self.learner(ids[:, 1])], dim=1)


class ContrastiveLoss:
    """How badly texts are told apart from a batch's others, by those that they belong to: InfoNCE, both ways, in nats.

    A row whose text is the same on either side is no wrong answer, and counts as none.

    Args:
        temperature: by which cosines are divided.
    """

    # Every row is a wrong answer to the others: of a part of a batch it is another function.
    compares_rows = True

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, vectors: Tensor, texts: Tensor) -> Tensor:
        """Return the mean over rows.

        Args:
            vectors: (rows, 2, size).
            texts: (rows, 2) numbers of the texts; the same text has the same one.
        """
        odds = vectors[:, 0] @ vectors[:, 1].T / self._temperature
        is_same = (texts[:, None] == texts[None]).any(dim=2)
        own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
        odds = odds.masked_fill(is_same & ~own, -torch.inf)
        goals = torch.arange(len(texts), device=texts.device)
        cross_entropy = nn.functional.cross_entropy
        return (cross_entropy(odds, goals) + cross_entropy(odds.T, goals)) / 2


def new_embedder(settings: Mapping[str, Any], vocabulary: int, seed: int) -> Embedder:
    """Return an embedder of random weights, by the family's hyperparameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return Embedder(encoder_config(settings, vocabulary))


def freeze_all_but_last_layer(embedder: Embedder) -> None:
    """Let training change the encoder's last layer alone."""
    embedder.encoder.requires_grad_(False)
    # As DistilBERT calls its layers, and as all others do.
    layers = embedder.encoder.transformer if hasattr(embedder.encoder, "transformer") else embedder.encoder.encoder
    layers.layer[-1].requires_grad_(True)


def embedder_files(embedder: Embedder) -> dict[str, bytes]:
    """Return the encoder's configuration as JSON, and all weights as safetensors."""
    description = {"encoder": embedder.config.to_diff_dict()}
    weights = {name: value.contiguous() for name, value in embedder.state_dict().items()}
    return {CONFIG_FILE: json.dumps(description, sort_keys=True).encode(), WEIGHTS_FILE: save(weights)}


def load_embedder(files: Mapping[str, bytes]) -> Embedder:
    """Return the embedder that gave the files."""
    with torch.random.fork_rng(devices=[]):
        embedder = Embedder(read_config(json.loads(files[CONFIG_FILE])["encoder"]))
    embedder.load_state_dict(load(files[WEIGHTS_FILE]))
    embedder.eval()
    return embedder
