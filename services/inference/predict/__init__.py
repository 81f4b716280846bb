"""Predictions without tensors: lepton.v1.PredictionService, on the port of the Open Inference Protocol.

rows (named values to arrays by signature), tables (Arrow to arrays, and answers to Arrow), answers (outputs to labels,
probabilities and values), scoring (a dataset version into a new one), servicer. What runs a model, and whatever
batches, counts or limits runs, is that of serving/.
"""
