"""The model of deployments."""
