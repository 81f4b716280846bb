"""The SDK under the names of published listings; each module re-exports one of `lepton`."""
