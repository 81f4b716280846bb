"""Real reviews to a Transformer that tells their sentiment: `lepton up --detach`, then `python train.py`.

The first 8,000 reviews train it, the last 2,000 judge it: some two minutes on a core. `--rows 800 --epochs 2` shows the
way in seconds.
"""

import argparse
from pathlib import Path

import pandas as pd

import lepton

_DATA = Path(__file__).with_name("chinese_reviews.csv")
_TEST_ROWS = 2000
_EXAMPLES = ("房间很干净，服务也好，下次还来", "质量太差了，用了两天就坏，千万别买")


def main() -> None:
    """Import, train, deploy, predict; print what came of it."""
    given = _arguments()
    reviews = pd.read_csv(_DATA)
    train, test = reviews.iloc[:-_TEST_ROWS].head(given.rows), reviews.iloc[-_TEST_ROWS:]
    kept = lepton.Dataset.import_frame(train, "reviews", label="sentiment")
    judged = lepton.Dataset.import_frame(test, "reviews-test", label="sentiment")
    model = lepton.Transformer(
        name="reviews",
        epochs=given.epochs,
        pretraining_epochs=given.pretraining_epochs,
        layers=1,
        vocabulary=6000,
        schedule="linear",
        warmup=0.1,
        learning_rate=5e-4,
        seed=given.seed,
    ).fit(kept, evaluation_data=judged)
    print(f"{model.trained_version().ref}: {len(train):,} reviews learned, {len(test):,} judged")
    print({name: round(value, 4) for name, value in model.metrics.items()})
    print(lepton.Deploy(model).save().predict_texts(_EXAMPLES).assign(text=_EXAMPLES).to_string(index=False))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000, help="reviews to train on (8,000)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over them with their labels (6)")
    parser.add_argument("--pretraining-epochs", type=int, default=0, help="passes before, without labels (0)")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (0)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
