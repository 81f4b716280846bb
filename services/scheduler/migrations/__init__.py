"""The versions of the scheduler's schema."""
