"""The names of every model's outputs: no input may bear them, for a graph's names are unique."""

OUTPUT_NAMES = ("prediction", "probabilities")
