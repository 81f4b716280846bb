"""Fits on tables larger than memory: rows are read again and again, batch by batch, and never held whole."""
