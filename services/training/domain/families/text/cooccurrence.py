"""First vectors of tokens, from those they stand beside: seconds of linear algebra, worth many passes of a network.

Source: Levy, Goldberg and Dagan, Improving Distributional Similarity with Lessons Learned from Word Embeddings, TACL
2015: positive pointwise mutual information, factored.
"""

from typing import Any

import numpy as np
from scipy import sparse

from services.training.domain.families.frame import Array
from services.training.domain.families.text.tokens import START_ID

# Tokens on either side that count, by the inverse of their distance.
_WINDOW = 5
# Rare neighbours say less than their surprise suggests.
_SMOOTHING = 0.75
# Of the randomised factoring: Halko, Martinsson and Tropp, SIAM Review 53, 2011.
_SPARE_DIRECTIONS = 10
_POWER_ITERATIONS = 4


def begin_from_neighbours(encoder: Any, ids: Array, seed: int) -> None:
    """Give the tokens that stand in texts the vectors of their neighbours; others keep theirs.

    Args:
        encoder: a transformers' encoder, changed in place.
        ids: (rows, tokens) of the texts, padded.
        seed: of the factoring's random start.
    """
    # Here: what is above needs no torch.
    import torch

    table = encoder.get_input_embeddings().weight
    vocabulary, size = table.shape
    vectors = vectors_from_neighbours(ids, vocabulary, size, seed)
    with torch.no_grad():
        is_seen = torch.from_numpy(vectors.any(axis=1, keepdims=True))
        table.copy_(torch.where(is_seen, torch.from_numpy(vectors), table))


def vectors_from_neighbours(ids: Array, vocabulary: int, size: int, seed: int) -> Array:
    """Return (vocabulary, size) float32 vectors, alike where tokens stand beside the same ones; zeros for unseen ones.

    The same ids and seed give the same vectors.

    Args:
        ids: (rows, tokens) of the texts, padded.
        vocabulary: how many ids there are.
        size: of a vector; a root mean square of size ** -0.5 over the tokens that were seen.
        seed: of the factoring's random start.
    """
    surprise = _surprise(_neighbours(ids, vocabulary))
    kept = min(size, vocabulary)
    directions, strengths = _largest(surprise, kept, seed)
    vectors = np.zeros((vocabulary, size), dtype=np.float32)
    vectors[:, :kept] = directions * np.sqrt(strengths)
    is_seen = np.diff(surprise.indptr) > 0
    # What is left of rounding.
    vectors[~is_seen] = 0.0
    spread = float(np.sqrt(np.square(vectors[is_seen]).mean())) if is_seen.any() else 1.0
    return np.asarray(vectors * np.float32(size**-0.5 / spread))


def _neighbours(ids: Array, vocabulary: int) -> sparse.csr_array:
    """Return (vocabulary, vocabulary) sums over pairs in a text, symmetric."""
    found = sparse.csr_array((vocabulary, vocabulary), dtype=np.float64)
    for distance in range(1, min(_WINDOW, ids.shape[1] - 1) + 1):
        left, right = ids[:, :-distance].ravel(), ids[:, distance:].ravel()
        # Neither padding nor what stands for no piece of text.
        is_pair = (left > START_ID) & (right > START_ID)
        counts = np.full(int(is_pair.sum()), 1.0 / distance)
        found += sparse.coo_array((counts, (left[is_pair], right[is_pair])), shape=found.shape).tocsr()
    return (found + found.T).tocsr()


def _surprise(counts: sparse.csr_array) -> sparse.csr_array:
    """Return the positive pointwise mutual information of counts, in nats."""
    pairs = counts.tocoo()
    alone = counts.sum(axis=1)
    smoothed = np.power(alone, _SMOOTHING)
    rows, columns = pairs.coords
    expected = alone[rows] * smoothed[columns] / max(smoothed.sum(), 1.0)
    values = np.log(pairs.data / expected)
    is_more = values > 0
    return sparse.csr_array((values[is_more], (rows[is_more], columns[is_more])), shape=counts.shape)


def _largest(matrix: sparse.csr_array, count: int, seed: int) -> tuple[Array, Array]:
    """Return the (rows, count) left singular vectors of the largest singular values, and these."""
    tried = min(count + _SPARE_DIRECTIONS, matrix.shape[1])
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], tried))
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
    left, strengths, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    return np.asarray(basis @ left[:, :count]), np.asarray(strengths[:count])
