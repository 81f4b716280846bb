"""The data service on SQL, objects and streams."""
