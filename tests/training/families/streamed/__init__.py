"""Fits over rows that stream."""
