"""`from leptonai.evaluation import evaluate`."""

from lepton.evaluation import evaluate

__all__ = ["evaluate"]
