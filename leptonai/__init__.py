"""The SDK under the names of published listings; each module re-exports one of `lepton`."""

import importlib
import importlib.util


def __getattr__(name: str) -> object:
    if not name.startswith("_") and importlib.util.find_spec(f"leptonai.{name}") is not None:
        return importlib.import_module(f"leptonai.{name}")
    raise AttributeError(f"module 'leptonai' has no attribute {name!r}")
