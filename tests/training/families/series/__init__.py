"""Families that read series."""
