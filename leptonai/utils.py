"""`from leptonai.utils import load_data`."""

from lepton.utils import load_data

__all__ = ["load_data"]
