"""The training service on SQL, and its neighbours as it sees them."""
