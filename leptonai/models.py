"""`from leptonai.models import LinearRegression, ...`."""

from lepton.models import CNN, MLP, RNN, BoostedTrees, LinearRegression, LogisticRegression, Transformer

__all__ = ["CNN", "MLP", "RNN", "BoostedTrees", "LinearRegression", "LogisticRegression", "Transformer"]
