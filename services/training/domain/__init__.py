"""The model of training: job states, families."""
