"""Fixtures that all tests share; each comes from a module of tests/support."""

# A module that imports another of these comes after it: pytest rewrites asserts before the first import.
pytest_plugins = [
    "tests.support.credentials",
    "tests.support.nats",
    "tests.support.postgres",
    "tests.support.s3",
    "tests.support.example_service",
]
