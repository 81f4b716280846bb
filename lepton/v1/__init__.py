"""Stubs of the `lepton.v1` contract, generated from protos/ by `make proto`; never edited."""
