"""The scheduler's database, its bucket, and its neighbours."""
