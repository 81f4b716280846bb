"""Fits embeddings of texts, by the loop of all networks."""

from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import Run
from services.training.domain.families.neural.rows import set_aside
from services.training.domain.families.target import Target
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.tokens import SpecialIds, token_ids, train_tokenizer

if TYPE_CHECKING:
    from services.training.domain.families.text.embedder import Embedder
    from services.training.domain.families.text.pretrained import TextBody

# With one there is nothing to tell a text apart from.
_LEAST_ROWS = 2


def fit_embedding(
    columns: tuple[Column, ...],
    texts: list[str],
    positives: Array,
    target: Target,
    run: Run,
    base: TextModel | None,
    body: "TextBody | None" = None,
) -> TextModel:
    """Fit an encoder whose vectors of texts that belong together point the same way.

    Args:
        columns: the one with the texts.
        texts: (rows,).
        positives: (rows,) the texts that belong to them.
        target: the column of these.
        run: how to fit.
        base: a model to go on from, by its tokenizer and starting from its weights.
        body: an encoder to begin from in the same way.

    Raises:
        InvalidArgument: too few rows or too small batches, or a loss that is no longer a number.
        Stopped: it was cancelled.
    """
    # Here, for a job of another family needs none of it: three seconds and 300 MB.
    from torch import from_numpy

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network
    from services.training.domain.families.text.embedder import ContrastiveLoss, PairLearner
    from services.training.domain.families.text.network import Learner
    from services.training.domain.families.text.pretraining import pretrain_first
    from services.training.domain.families.text.restriction import restrict

    aside = set_aside(positives, 0, run)
    kept = np.flatnonzero(~aside)
    _check(run, len(kept))
    both = [*texts, *positives.tolist()]
    seen = [both[place] for place in (*kept, *(kept + len(texts)))]
    if body is not None:
        tokenizer, embedder = body.begin_embedder(run.settings)
    else:
        tokenizer, embedder = _continued(base) if base else _begun(seen, run)
    # The first half are the texts, the second what belongs to them.
    ids = token_ids(tokenizer, both).reshape(2, len(texts), -1)
    numbers = np.unique(np.array(both, dtype=object), return_inverse=True)[1].reshape(2, -1)
    rows = Rows(from_numpy(ids.swapaxes(0, 1)), from_numpy(numbers.T))
    learned = rows[from_numpy(kept)]
    padding = embedder.config.pad_token_id
    lengths = (learned.inputs != padding).sum(dim=(1, 2))
    if base is None and body is None:
        alone = learned.inputs.flatten(0, 1)
        run = pretrain_first(embedder, alone, (alone != padding).sum(dim=1), run)
    merge = restrict(embedder, run) if base is not None or body is not None else None
    watched = rows[from_numpy(np.flatnonzero(aside))] if aside.any() else None
    learner = PairLearner(Learner(embedder, run.number("token_dropout"), SpecialIds.of(tokenizer)))
    train_network(learner, ContrastiveLoss(run.number("temperature")), learned, run, watched, lengths)
    if merge is not None:
        merge()
    brought = body.shape(tokenizer) if body is not None else base.brought_along() if base is not None else {}
    settings = dict(run.settings) | brought
    return TextModel("transformer", settings, columns, target, "ignore", tokenizer, embedder)


def _begun(texts: list[str], run: Run) -> "tuple[Tokenizer, Embedder]":
    from services.training.domain.families.text.embedder import new_embedder

    tokenizer = train_tokenizer(texts, int(run.number("vocabulary")), int(run.number("max_tokens")))
    return tokenizer, new_embedder(run.settings, tokenizer.get_vocab_size(), run.seed)


def _continued(base: TextModel) -> "tuple[Tokenizer, Embedder]":
    from services.training.domain.families.text.embedder import Embedder, embedder_files, load_embedder

    assert isinstance(base.network, Embedder)
    # The base stays what it is: it is scored beside its child.
    return base.tokenizer, load_embedder(embedder_files(base.network))


def _check(run: Run, rows: int) -> None:
    if int(run.number("batch_size")) < _LEAST_ROWS:
        raise InvalidArgument(
            "batch_size must be at least 2 for embeddings: each text is told apart from the others of its batch",
            reason="BAD_HYPERPARAMETER",
        )
    if rows < _LEAST_ROWS:
        raise InvalidArgument(
            "there must be at least 2 rows to train on: each text is told apart from others", reason="TOO_FEW_ROWS"
        )
