"""Predictions without tensors: lepton.v1.PredictionService, on the port of the Open Inference Protocol.

rows (named values to arrays by signature), texts and images (to arrays, by the version's tokenizer.json or image.json),
answers (outputs to labels, probabilities and values), scoring (a dataset version into a new one, by tables: Arrow to
arrays and back), servicer. What runs a model, and whatever batches, counts or limits runs, is that of serving/.
"""
