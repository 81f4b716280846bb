"""What the families need that takes seconds to import: a child that waits for a job has it loaded already."""

import importlib

_HERE = "services.training.domain.families"
_NETWORKS = ("neural.loop", "neural.export")
_MODULES = {
    "mlp": ("neural.loop",),
    "cnn": (*_NETWORKS, "image.network"),
    "rnn": ("neural.loop", "series.network"),
    "transformer": (*_NETWORKS, "text.network", "text.pretraining"),
}


def load_libraries(family: str) -> None:
    """Import what a family's fit needs and others do not; nothing for one that is unknown or needs none."""
    for module in _MODULES.get(family, ()):
        importlib.import_module(f"{_HERE}.{module}")
