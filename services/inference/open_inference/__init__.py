"""Stubs of the Open Inference Protocol, generated from protos/inference by `make proto`; never edited."""
