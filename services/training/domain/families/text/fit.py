"""Fits a model of texts, by the loop of all networks: classes and numbers here, vectors in fit_embedding."""

from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import Run
from services.training.domain.families.neural.rows import class_weights, set_aside
from services.training.domain.families.target import EMBEDDING, Target
from services.training.domain.families.text.columns import PAIR, Reading, task_of
from services.training.domain.families.text.cooccurrence import begin_from_neighbours
from services.training.domain.families.text.fit_embedding import fit_embedding
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.tokens import SEPARATOR_ID, SpecialIds, is_own, token_ids, train_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from services.training.domain.families.text.network import Classifier
    from services.training.domain.families.text.pretrained import TextBody


def fit_transformer(
    columns: tuple[Column, ...],
    texts: list[Reading],
    truth: Array,
    target: Target,
    run: Run,
    base: TextModel | None,
    body: "TextBody | None" = None,
) -> TextModel:
    """Fit a Transformer on texts or pairs of them; from a base or a body, by its tokenizer and from its weights.

    Raises:
        InvalidArgument: settings that do not go together, or a loss that is no longer a number.
        Stopped: it was cancelled.
    """
    # Here, for a job of another family needs none of it: three seconds and 300 MB.
    from torch import from_numpy

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network
    from services.training.domain.families.text.network import scale_answers
    from services.training.domain.families.text.phrases import fit_phrases
    from services.training.domain.families.text.restriction import restrict

    is_new = base is None and body is None
    if is_new:
        check_settings(run)
    if target.task == EMBEDDING:
        alone = [text for text in texts if isinstance(text, str)]
        return fit_embedding(columns, alone, truth, target, run, base, body)
    aside = set_aside(truth, len(target.classes), run)
    kept = np.flatnonzero(~aside)
    for_pairs = task_of(columns, target) == PAIR
    seen = [texts[place] for place in kept]
    outputs = len(target.classes) or 1
    if body is not None:
        tokenizer, classifier = body.begin(run.settings, outputs, run.seed, for_pairs=for_pairs)
    else:
        tokenizer, classifier = _continued(base) if base else _begun(seen, outputs, run, for_pairs=for_pairs)
    # Numbers are learned on their own scale: step sizes then mean the same whatever their unit.
    offset, spread = (0.0, 1.0) if target.classes else (float(truth.mean()), float(truth.std()) or 1.0)
    goals = truth if target.classes else ((truth - offset) / spread).astype(np.float32).reshape(-1, 1)
    if base is not None and not target.classes:
        scale_answers(classifier, 1.0 / spread, -offset / spread)
    ids = from_numpy(token_ids(tokenizer, texts))
    rows = Rows(ids, from_numpy(goals))[from_numpy(kept)]
    lengths = (rows.inputs != classifier.config.pad_token_id).sum(dim=1)
    if is_new:
        run = _taught(classifier, rows.inputs, lengths, run)
    merge = restrict(classifier, run) if not is_new else None
    watched = Rows(ids, from_numpy(goals))[from_numpy(np.flatnonzero(aside))] if aside.any() else None
    train_network(_learner(classifier, tokenizer, run), _loss(target, truth[kept], run), rows, run, watched, lengths)
    if merge is not None:
        merge()
    if is_new and target.classes and not for_pairs and run.settings["phrases"] == "on":
        # Beside the encoder, not before it: what phrases tell of these rows the encoder would no longer learn.
        weights = class_weights(truth[kept], len(target.classes), run)
        classifier.phrases = fit_phrases(rows.inputs.numpy(), truth[kept], weights, tokenizer, run)
    if not target.classes:
        scale_answers(classifier, spread, offset)
    brought = body.shape(tokenizer) if body is not None else base.brought_along() if base is not None else {}
    settings = dict(run.settings) | brought
    return TextModel("transformer", settings, columns, target, "ignore", tokenizer, classifier)


def _begun(texts: list[Reading], outputs: int, run: Run, *, for_pairs: bool) -> "tuple[Tokenizer, Classifier]":
    from services.training.domain.families.text.network import new_classifier

    vocabulary, most_tokens = int(run.number("vocabulary")), int(run.number("max_tokens"))
    tokenizer = train_tokenizer(flattened(texts), vocabulary, most_tokens, for_pairs=for_pairs)
    separator = SEPARATOR_ID if for_pairs else None
    return tokenizer, new_classifier(run.settings, tokenizer.get_vocab_size(), outputs, run.seed, separator)


def _continued(base: TextModel) -> "tuple[Tokenizer, Classifier]":
    from services.training.domain.families.text.network import Classifier, classifier_files, load_classifier

    assert isinstance(base.network, Classifier)
    # The base stays what it is: it is scored beside its child.
    return base.tokenizer, load_classifier(classifier_files(base.network))


def _taught(classifier: "Classifier", ids: "Tensor", lengths: "Tensor", run: Run) -> Run:
    """Let a new encoder learn what the texts tell without labels; return the run of what follows."""
    from services.training.domain.families.text.pretraining import pretrain_first

    # What stands beside a token in one text of a pair says nothing of how the two go together.
    if run.settings["first_vectors"] == "neighbours" and classifier.separator is None:
        begin_from_neighbours(classifier.encoder, ids.numpy(), run.seed)
    return pretrain_first(classifier, ids, lengths, run)


def _learner(classifier: "Classifier", tokenizer: Tokenizer, run: Run) -> "nn.Module":
    from services.training.domain.families.text.network import Learner
    from services.training.domain.families.text.splitting import TokenSplitting

    # Tokens of other tokenizers are left as they are, and those of pairs, which are compared token by token.
    is_single = is_own(tokenizer) and classifier.separator is None
    share = float(run.settings.get("token_splitting", 0.0)) if is_single else 0.0
    splitting = TokenSplitting(tokenizer, share, classifier.config.max_position_embeddings) if share else None
    return Learner(classifier, run.number("token_dropout"), SpecialIds.of(tokenizer), splitting)


def _loss(target: Target, truth: Array, run: Run) -> "nn.Module":
    from torch import nn, tensor

    if not target.classes:
        return nn.MSELoss()
    weights = tensor(class_weights(truth, len(target.classes), run)).float()
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=run.number("label_smoothing"))


def flattened(rows: list[Reading]) -> list[str]:
    """Return all texts of some rows."""
    return [text for row in rows for text in ((row,) if isinstance(row, str) else row)]


def check_settings(run: Run) -> None:
    """Check that settings go together.

    Raises:
        InvalidArgument: they do not.
    """
    if int(run.number("hidden_size")) % int(run.number("heads")):
        raise InvalidArgument(
            f"hidden_size must be a multiple of heads, got {run.settings['hidden_size']} and {run.settings['heads']}",
            reason="BAD_HYPERPARAMETER",
        )
