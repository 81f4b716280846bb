"""LoRA: beside each projection of the attention a product of two thin matrices learns, and the rest stays as it is.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. peft does it; in the end the products
are added to the projections, so that the model is one like any other.
"""

import warnings
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from services.training.domain.families.model import Run

# Queries, keys, values and what is made of them, as the encoders call theirs.
_PROJECTIONS = r".*\.(query|key|value|attention\.output\.dense|q_lin|k_lin|v_lin|out_lin)"


def add_lora(encoder: nn.Module, run: Run) -> Callable[[], None]:
    """Put adapters into an encoder, and let training change them alone; return what merges them in the end.

    Args:
        encoder: changed in place.
        run: with lora_rank, lora_alpha and lora_dropout.
    """
    config = LoraConfig(
        r=int(run.number("lora_rank")),
        lora_alpha=int(run.number("lora_alpha")),
        lora_dropout=run.number("lora_dropout"),
        target_modules=_PROJECTIONS,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft's of what it calls in transformers.
        warnings.simplefilter("ignore")
        torch.manual_seed(run.seed % 2**63)
        adapted = get_peft_model(encoder, config)

    def merge() -> None:
        adapted.merge_and_unload()

    return merge
