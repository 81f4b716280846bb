"""The family that reads series: `steps` makes tensors of lists, `network` is the GRU or LSTM, `graph` its export."""
