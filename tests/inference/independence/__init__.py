"""Tests of services.inference.independence."""
