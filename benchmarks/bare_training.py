"""The libraries by themselves: `python -m benchmarks.bare_training trees|transformer FILE`, a process of its own.

Prints the seconds from reading the rows to the scores on those set aside; loading the libraries does not count, as it
does not on a worker that is warm.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet

# As the platform's jobs: one core, a tenth of the rows to score.
_THREADS, _HELD_OUT = 1, 0.1
TREES: dict[str, Any] = {"n_estimators": 200, "learning_rate": 0.05, "num_leaves": 15}
TRANSFORMER: dict[str, Any] = {
    "pretraining_epochs": 0,
    "epochs": 3,
    # What a plain loop has not.
    "first_vectors": "random",
    "token_splitting": 0.0,
    "phrases": "off",
}
_TEST_ROWS = 2000


def main() -> None:
    """Fit one of the two and print how long that took."""
    what, path = sys.argv[1:]
    print({"trees": fit_trees, "transformer": fit_transformer}[what](Path(path)))


def fit_trees(path: Path) -> float:
    """Return the seconds that LightGBM takes for a Parquet file whose last column is the target, 0 or 1."""
    import torch  # noqa: F401  (brings libgomp where the system has none)
    from lightgbm import LGBMClassifier

    began = time.perf_counter()
    table = pyarrow.parquet.read_table(path)
    values = np.stack([column.to_numpy() for column in table.columns], axis=1)
    held_out = np.random.default_rng(0).random(len(values)) < _HELD_OUT
    model = LGBMClassifier(**TREES, n_jobs=_THREADS, deterministic=True, force_row_wise=True, verbosity=-1)
    model.fit(values[~held_out, :-1], values[~held_out, -1])
    odds: Any = model.predict_proba(values[held_out, :-1])
    assert ((odds[:, 1] > 0.5) == values[held_out, -1]).mean() > 0.6
    return time.perf_counter() - began


def fit_transformer(path: Path) -> float:
    """Return the seconds that a plain loop in torch takes for the same network, batches and steps as the platform's."""
    import torch

    from services.training.domain.families.catalog import resolve_hyperparameters
    from services.training.domain.families.neural.batches import Batches, Rows
    from services.training.domain.families.text.network import Learner, new_classifier
    from services.training.domain.families.text.tokens import PAD_ID, SpecialIds, token_ids, train_tokenizer

    torch.set_num_threads(_THREADS)
    settings: dict[str, Any] = resolve_hyperparameters("transformer", TRANSFORMER)
    began = time.perf_counter()
    table = pyarrow.csv.read_csv(path)
    texts: list[str] = table.column(0).to_pylist()
    labels = np.unique(table.column(1).to_numpy(), return_inverse=True)[1]
    tokenizer = train_tokenizer(texts[:-_TEST_ROWS], settings["vocabulary"], settings["max_tokens"])
    ids, goals = torch.from_numpy(token_ids(tokenizer, texts)), torch.from_numpy(labels)
    rows, test = (Rows(ids[part], goals[part]) for part in (slice(-_TEST_ROWS), slice(-_TEST_ROWS, None)))
    network = new_classifier(settings, tokenizer.get_vocab_size(), 2, 0)
    learner = Learner(network, settings["token_dropout"], SpecialIds.of(tokenizer))
    batches = Batches(rows, settings["batch_size"], 0, lengths=(rows.inputs != PAD_ID).sum(dim=1))
    steps, optimizer = len(batches) * settings["epochs"], torch.optim.AdamW(learner.parameters())
    learner.train()
    for step, (inputs, wanted) in enumerate(pair for _ in range(settings["epochs"]) for pair in batches):
        optimizer.param_groups[0]["lr"] = settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = torch.nn.functional.cross_entropy(learner(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), settings["gradient_clip"])
        optimizer.step()
    learner.eval()
    with torch.inference_mode():
        found = torch.cat([learner(inputs).argmax(dim=1) for inputs, _ in Batches(test, 64)])
    assert (found == test.goals).float().mean() > 0.6
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
