"""What of a network that was there before a fit may change: all, the last layer, or thin matrices beside it (LoRA)."""

from collections.abc import Callable

from services.training.domain.families.model import Run
from services.training.domain.families.text.embedder import Embedder, freeze_all_but_last_layer
from services.training.domain.families.text.lora import add_lora
from services.training.domain.families.text.network import Classifier, freeze_all_but_head


def restrict(network: Classifier | Embedder, run: Run) -> Callable[[], None] | None:
    """Let training change what the run's `trainable` says; return what is to be done in the end, if anything."""
    trainable = run.settings["trainable"]
    if trainable == "lora":
        return add_lora(network.encoder, run)
    if trainable == "last" and isinstance(network, Embedder):
        freeze_all_but_last_layer(network)
    elif trainable == "last":
        freeze_all_but_head(network)
    return None
