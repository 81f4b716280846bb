"""Deployments on SQL, and the neighbours as inference sees them."""
