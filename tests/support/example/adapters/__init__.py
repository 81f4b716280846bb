"""The example service's adapters: its tables alone."""
