"""A linear model of tokens and of pairs of neighbouring tokens, which says its word beside the encoder's.

What few texts show it learns better than an encoder does, and an encoder learns what it cannot: together they are right
more often than either. A token also says what the pieces say that it was joined from, and two neighbours what those
pieces say that meet between them, so that rare ones are understood.

Source: Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016; pairs by hashing: Weinberger et al.,
Feature Hashing for Large Scale Multitask Learning, ICML 2009.
"""

import json
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import minimize
from tokenizers import Tokenizer
from torch import Tensor, nn

from services.training.domain.families.frame import Array
from services.training.domain.families.logistic import regularized_loss
from services.training.domain.families.model import Run, Stopped
from services.training.domain.families.text.tokens import START_ID

# Weights of pairs, a megabyte: with two classes, a place each for as many as some thousand texts have.
_PAIR_WEIGHTS = 1 << 18
_LEAST_PAIR_PLACES = 1 << 12
_HASH = 1_000_003
# Tells pairs of pieces at the edges of two tokens from pairs of tokens.
_OF_EDGES = 7_368_787
# Inverse strength of the penalty, a row.
_C = 0.3
_MOST_ITERATIONS = 100


class Phrases(nn.Module):
    """Adds up what each token and each pair of neighbours says for each class, by the root of how many they are.

    It is fitted by `fit_phrases`, and no training of a network changes it.

    Args:
        vocabulary: tokens.
        outputs: classes.
    """

    table: Tensor
    bias: Tensor
    first_piece: Tensor
    last_piece: Tensor

    def __init__(self, vocabulary: int, outputs: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.pair_places = max(_PAIR_WEIGHTS // outputs, _LEAST_PAIR_PLACES)
        self.register_buffer("table", torch.zeros(vocabulary + self.pair_places, outputs))
        self.register_buffer("bias", torch.zeros(outputs))
        # Of each token the pieces that it begins and ends with.
        self.register_buffer("first_piece", torch.arange(vocabulary))
        self.register_buffer("last_piece", torch.arange(vocabulary))

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, classes) log odds of (rows, tokens) ids, padded."""
        before = nn.functional.pad(ids, (1, 0))[:, :-1]
        is_token = ids > START_ID
        is_pair = is_token & (before > START_ID)
        of_tokens = self.table[ids] * is_token.unsqueeze(-1)
        edges = self.places_of_pairs(self.last_piece[before], self.first_piece[ids], _OF_EDGES)
        of_pairs = self.table[self.places_of_pairs(before, ids)] + self.table[edges]
        count = (is_token.sum(dim=1) + 2 * is_pair.sum(dim=1)).clamp(min=1).unsqueeze(-1)
        said = of_tokens + of_pairs * is_pair.unsqueeze(-1)
        return said.sum(dim=1) / count.to(said.dtype).sqrt() + self.bias

    def places_of_pairs(self, first: Any, second: Any, salt: int = 0) -> Any:
        """Return where in the table pairs of ids stand, arrays or tensors of them; by another salt elsewhere."""
        return self.vocabulary + (second * _HASH + first + salt) % self.pair_places


def fit_phrases(ids: Array, truth: Array, weights: Array, tokenizer: Tokenizer, run: Run) -> Phrases:
    """Fit by L-BFGS, in seconds: the same rows give the same weights.

    Args:
        ids: (rows, tokens) of the texts, padded.
        truth: (rows,) class indexes.
        weights: (classes,) of a row of each.
        tokenizer: that gave the ids.
        run: asked whether it is cancelled.

    Raises:
        Stopped: it was cancelled.
    """
    phrases = Phrases(tokenizer.get_vocab_size(), len(weights))
    first, last = edges_of_tokens(tokenizer)
    phrases.first_piece.copy_(torch.from_numpy(first))
    phrases.last_piece.copy_(torch.from_numpy(last))
    counts = _counts(ids, phrases)
    roots = np.sqrt(np.maximum(counts.sum(axis=1), 1.0))
    parts = sparse.block_diag([joined_from(tokenizer), sparse.eye_array(phrases.pair_places)]).tocsr()
    counts = (counts @ parts).tocsr()
    # What stands in few texts may weigh more there, as in TF-IDF.
    rarity = np.log((1.0 + len(ids)) / (1.0 + np.bincount(counts.indices, minlength=counts.shape[1]))) + 1.0
    scaled = sparse.diags_array(1.0 / roots) @ counts @ sparse.diags_array(rarity)
    design = sparse.hstack([scaled, np.ones((len(ids), 1))]).tocsr()
    learned = _minimize(design, truth, weights, run)
    if len(weights) == 2:
        # Log odds of the second class against the first.
        learned = np.hstack([-0.5 * learned, 0.5 * learned])
    phrases.table.copy_(torch.from_numpy(parts @ (learned[:-1] * rarity[:, None])))
    phrases.bias.copy_(torch.from_numpy(learned[-1]))
    return phrases


def joined_from(tokenizer: Tokenizer) -> sparse.csr_array:
    """Return (tokens, tokens) ones where the first is the second, or was joined from it by byte-pair encoding."""
    described = json.loads(tokenizer.to_str())["model"]
    of = described["vocab"]
    pieces = {place: [place] for place in of.values()}
    # Merges stand in the order in which they were learned: parts before what is joined from them.
    for first, second in described.get("merges", []):
        joined, parts = of[first + second], {*pieces[of[first]], *pieces[of[second]]}
        pieces[joined] = sorted({*pieces[joined], *parts})
    rows = np.repeat(list(pieces), [len(found) for found in pieces.values()])
    columns = np.concatenate(list(pieces.values()))
    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(pieces), len(pieces))).tocsr()


def edges_of_tokens(tokenizer: Tokenizer) -> tuple[Array, Array]:
    """Return (tokens,) ids of the pieces that each token begins and ends with, which were joined from no others."""
    described = json.loads(tokenizer.to_str())["model"]
    of = described["vocab"]
    first, last = np.arange(len(of)), np.arange(len(of))
    for one, other in described.get("merges", []):
        joined = of[one + other]
        first[joined], last[joined] = first[of[one]], last[of[other]]
    return first, last


def _minimize(design: sparse.csr_array, truth: Array, weights: Array, run: Run) -> Array:
    """Return the (columns, outputs) weights of least loss, the last of the intercept."""
    shape = (design.shape[1], 1 if len(weights) == 2 else len(weights))
    total = float(weights[truth].sum())
    loss = regularized_loss(lambda: iter([(design, truth)]), weights / total, 1.0 / (_C * total), shape)

    def follow(intermediate_result: object) -> None:
        if run.is_cancelled():
            raise Stopped

    options = {"maxiter": _MOST_ITERATIONS}
    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", callback=follow, options=options)
    return np.asarray(found.x.reshape(shape))


def _counts(ids: Array, phrases: Phrases) -> sparse.csr_array:
    """Return how often each row has each token and pair: (rows, places)."""
    before = np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
    is_token = ids > START_ID
    is_pair = is_token & (before > START_ID)
    last, first = phrases.last_piece.numpy()[before], phrases.first_piece.numpy()[ids]
    pairs = [phrases.places_of_pairs(before, ids), phrases.places_of_pairs(last, first, _OF_EDGES)]
    rows = np.concatenate([np.nonzero(is_token)[0], *(np.nonzero(is_pair)[0] for _ in pairs)])
    places = np.concatenate([ids[is_token], *(each[is_pair] for each in pairs)])
    shape = (len(ids), len(phrases.table))
    return sparse.coo_array((np.ones(len(rows)), (rows, places)), shape=shape).tocsr()
