"""How well a Transformer does on a table: what every family is scored by, and what pairs and embeddings are, too."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array, normalize
from services.training.domain.families.metrics import Judgement, Scores
from services.training.domain.families.target import EMBEDDING, target_values
from services.training.domain.families.text.columns import PAIR, readings, task_of
from services.training.domain.families.text.model import TextModel

# Among how many texts the one that belongs to another is looked for, at most: the same number means the same on a
# hundred thousand rows as on a thousand.
MOST_CANDIDATES = 1000
_TOP = 10


def judge_texts(model: TextModel, table: pa.Table) -> tuple[Scores, Judgement | None]:
    """Return a model's scores on a table's rows, and its predictions beside the truth; None for embeddings.

    Its task's metrics; of numbers for pairs Spearman's rank correlation, too.

    Raises:
        InvalidArgument: the table lacks a column, or a class is unknown.
    """
    truth = target_values(normalize(table), model.target)
    if model.target.task == EMBEDDING:
        vectors, positives = model.embed(readings(table, model.columns)), model.embed(truth.tolist())
        return Scores(len(truth), retrieval_metrics(vectors, positives, truth)), None
    judgement = Judgement(model.predict(table), truth, model.target)
    scores = judgement.scores()
    if model.target.task == "regression" and task_of(model.columns, model.target) == PAIR:
        found = spearman(judgement.values, truth)
        scores = replace(scores, metrics={**scores.metrics, **({} if found is None else {"spearman": found})})
    return scores, judgement


def retrieval_metrics(vectors: Array, positives: Array, texts: Array) -> dict[str, float]:
    """Return how often, and how far up, the text that belongs to another is found among others by its vector.

    Texts are looked for among at most `MOST_CANDIDATES` rows: of more, equal parts that are drawn by a fixed seed. A
    text that stands in several rows is one candidate; one that is as near as the right one stands before it.

    Args:
        vectors: (rows, size), of length 1, of the texts.
        positives: (rows, size) of those that belong to them.
        texts: (rows,) these themselves.

    Returns:
        recall@1, mrr (the mean of 1 / rank), mean_rank; and recall@10 where there are more candidates than that.

    Source: Manning, Raghavan, Schütze, Introduction to Information Retrieval, 2008, ch. 8.
    """
    parts = -(-len(texts) // MOST_CANDIDATES)
    drawn = np.random.default_rng(0).permutation(len(texts))
    split = np.array_split(drawn, parts)
    ranks = np.concatenate([_ranks(vectors[part], positives[part], texts[part]) for part in split])
    metrics = {
        "recall@1": float((ranks == 1).mean()),
        "mrr": float((1.0 / ranks).mean()),
        "mean_rank": float(ranks.mean()),
    }
    if all(len(set(texts[part].tolist())) > _TOP for part in split):
        metrics[f"recall@{_TOP}"] = float((ranks <= _TOP).mean())
    return metrics


def spearman(values: Array, truth: Array) -> float | None:
    """Return Spearman's rank correlation, ties as their mean rank; None where one side is constant.

    Source: Spearman, The proof and measurement of association between two things, 1904.
    """
    one, other = _mean_ranks(values), _mean_ranks(truth)
    if one.std() == 0 or other.std() == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(vectors: Array, positives: Array, texts: Array) -> Array:
    """Return (rows,) the rank of each row's own text among all, from 1."""
    _, firsts, numbers = np.unique(texts, return_index=True, return_inverse=True)
    nearness = vectors @ positives[firsts].T
    own = nearness[np.arange(len(texts)), numbers]
    # Its own is among those that are as near, and makes the first rank 1.
    return np.asarray((nearness >= own[:, None]).sum(axis=1))


def _mean_ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse])
