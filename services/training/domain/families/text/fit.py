"""Fits a classifier of texts, by the loop of all networks."""

from dataclasses import replace
from functools import partial

import numpy as np

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import Progress, Run
from services.training.domain.families.neural.rows import class_weights, set_aside
from services.training.domain.families.target import Target
from services.training.domain.families.text.cooccurrence import begin_from_neighbours
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.tokens import PAD_ID, token_ids, train_tokenizer


def fit_transformer(
    columns: tuple[Column, ...], texts: list[str], truth: Array, target: Target, run: Run, base: TextModel | None
) -> TextModel:
    """Fit a Transformer; from a base, by its tokenizer and starting from its weights.

    Raises:
        InvalidArgument: settings that do not go together, or a loss that is no longer a number.
        Stopped: it was cancelled.
    """
    # Here, for a job of another family needs none of it: three seconds and 300 MB.
    from torch import from_numpy, nn, tensor

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import TRAINING_PHASE, is_under_way, train_network
    from services.training.domain.families.text.network import (
        Learner,
        classifier_files,
        freeze_all_but_head,
        load_classifier,
        new_classifier,
    )
    from services.training.domain.families.text.phrases import fit_phrases
    from services.training.domain.families.text.pretraining import pretrain
    from services.training.domain.families.text.splitting import TokenSplitting

    check_settings(run)
    aside = set_aside(len(truth), run)
    kept = np.flatnonzero(~aside)
    if base is None:
        vocabulary, most_tokens = int(run.number("vocabulary")), int(run.number("max_tokens"))
        tokenizer = train_tokenizer([texts[place] for place in kept], vocabulary, most_tokens)
        classifier = new_classifier(run.settings, tokenizer.get_vocab_size(), len(target.classes), run.seed)
    else:
        tokenizer = base.tokenizer
        # The base stays what it is: it is scored beside its child.
        classifier = load_classifier(classifier_files(base.network))
    ids = from_numpy(token_ids(tokenizer, texts))
    rows = Rows(ids, from_numpy(truth))[from_numpy(kept)]
    lengths = (rows.inputs != PAD_ID).sum(dim=1)
    if base is None and run.settings["first_vectors"] == "neighbours":
        begin_from_neighbours(classifier.encoder, rows.inputs.numpy(), run.seed)
    if base is None and run.number("pretraining_epochs"):
        before = run.number("pretraining_epochs") / (run.number("pretraining_epochs") + run.number("epochs"))
        # A checkpoint of what follows holds what was learned here.
        if not is_under_way(run, TRAINING_PHASE):
            pretrain(classifier, rows.inputs, lengths, replace(run, report=partial(_report_part, run, 0.0, before)))
        run = replace(run, report=partial(_report_part, run, before, 1.0))
    if base is not None and run.settings["trainable"] == "last":
        freeze_all_but_head(classifier)
    weights = class_weights(truth[kept], len(target.classes), run)
    loss = nn.CrossEntropyLoss(weight=tensor(weights).float(), label_smoothing=run.number("label_smoothing"))
    watched = Rows(ids, from_numpy(truth))[from_numpy(np.flatnonzero(aside))] if aside.any() else None
    splitting = TokenSplitting(tokenizer, run.number("token_splitting"), classifier.config.max_position_embeddings)
    learner = Learner(classifier, run.number("token_dropout"), splitting)
    train_network(learner, loss, rows, run, watched, lengths)
    if base is None and run.settings["phrases"] == "on":
        # Beside the encoder, not before it: what phrases tell of these rows the encoder would no longer learn.
        classifier.phrases = fit_phrases(rows.inputs.numpy(), truth[kept], weights, tokenizer, run)
    return TextModel("transformer", dict(run.settings), columns, target, "ignore", tokenizer, classifier)


def _report_part(run: Run, start: float, end: float, progress: Progress) -> None:
    """Tell progress as a part of the whole."""
    run.report(replace(progress, share=start + (end - start) * progress.share))


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
