"""The model of the data service: no transport, no database."""
