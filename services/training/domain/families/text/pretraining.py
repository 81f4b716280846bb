"""Learns a language from texts without labels: some tokens are hidden, and guessed from those around them.

Source: Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, NAACL 2019.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from services.training.domain.families.model import Progress, Run
from services.training.domain.families.neural.batches import Rows
from services.training.domain.families.neural.loop import is_under_way, train_network
from services.training.domain.families.neural.training import TRAINING_PHASE
from services.training.domain.families.text.embedder import Embedder
from services.training.domain.families.text.network import Classifier, cropped, token_vectors
from services.training.domain.families.text.tokens import START_ID, UNKNOWN_ID

# Of BERT's 15 in a hundred and more, for texts are few; a tenth of the guessed tokens stay visible.
_GUESSED = 0.2
_HIDDEN = 0.9
_NO_GOAL = -100


class MaskedLanguageModel(nn.Module):
    """An encoder that guesses tokens; its table of token vectors reads guesses, too.

    Args:
        classifier: its encoder learns.
    """

    def __init__(self, classifier: Classifier | Embedder) -> None:
        super().__init__()
        size, vocabulary = classifier.config.hidden_size, classifier.config.vocab_size
        self.encoder = classifier.encoder
        self._separator = classifier.separator
        # Special tokens come first, and are not guessed.
        self._last_special = START_ID if classifier.separator is None else classifier.separator
        self.transform = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the mean cross-entropy of the guesses, in nats, for (rows, tokens) ids, padded."""
        ids, mask = cropped(ids)
        draws = torch.rand(ids.shape, device=ids.device).masked_fill(ids <= self._last_special, 1.0)
        # As many places whatever was drawn: memory of ever new sizes would not be used again.
        lowest = draws.flatten().topk(math.ceil(_GUESSED * draws.numel()), largest=False)
        is_guessed = lowest.values < _GUESSED
        is_hidden = (torch.rand(is_guessed.shape, device=ids.device) < _HIDDEN) & is_guessed
        flat = ids.flatten()
        seen = flat.scatter(0, lowest.indices, torch.where(is_hidden, UNKNOWN_ID, flat[lowest.indices]))
        found = token_vectors(self.encoder, seen.view_as(ids), mask, self._separator)
        found = self.transform(found.flatten(0, 1)[lowest.indices])
        guesses = found @ self.encoder.embeddings.word_embeddings.weight.T + self.bias
        goals = flat[lowest.indices].masked_fill(~is_guessed, _NO_GOAL)
        # Short texts may have none to guess: a loss of 0, not of nothing by nothing.
        total = nn.functional.cross_entropy(guesses, goals, reduction="sum", ignore_index=_NO_GOAL)
        return total / is_guessed.sum().clamp(min=1)


def pretrain_first(network: Classifier | Embedder, ids: Tensor, lengths: Tensor, run: Run) -> Run:
    """Train an encoder in place on its texts alone, unless that is off or done; return the run of what follows.

    Args:
        network: of random weights.
        ids: (rows, tokens) of the texts, padded.
        lengths: (rows,) tokens of each.
        run: of the whole fit.
    """
    epochs = run.number("pretraining_epochs")
    if not epochs:
        return run
    before = epochs / (epochs + run.number("epochs"))
    # A checkpoint of what follows holds what was learned here.
    if not is_under_way(run, TRAINING_PHASE):
        pretrain(network, ids, lengths, replace(run, report=partial(_report_part, run, 0.0, before)))
    return replace(run, report=partial(_report_part, run, before, 1.0))


def _report_part(run: Run, start: float, end: float, progress: Progress) -> None:
    """Tell a part's progress as the whole's, of which it goes from one share to another."""
    run.report(replace(progress, share=start + (end - start) * progress.share))


def pretrain(classifier: Classifier | Embedder, ids: Tensor, lengths: Tensor, run: Run) -> None:
    """Train an encoder in place, for the run's `pretraining_epochs`.

    Args:
        classifier: of random weights.
        ids: (rows, tokens) of the texts, padded.
        lengths: (rows,) tokens of each.
        run: settings, seed, progress.

    Raises:
        InvalidArgument: the loss is no longer a number.
        Stopped: it was cancelled.
    """
    epochs = run.settings["pretraining_epochs"]
    settings = {**run.settings, "epochs": epochs, "learning_rate": run.settings["pretraining_learning_rate"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed % 2**63)
        network = MaskedLanguageModel(classifier)

    def report(progress: Progress) -> None:
        losses = {"pretraining_loss": progress.metrics["loss"]} if "loss" in progress.metrics else {}
        run.report(Progress(progress.share, f"pretraining, {progress.message}", progress.step, losses))

    part = replace(run, settings=settings, report=report)
    train_network(network, lambda loss, _: loss, Rows(ids, ids), part, lengths=lengths, phase="pretraining")
