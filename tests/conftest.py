"""Fixtures that all tests share, each from a module of tests/support, and how hypothesis runs."""

from hypothesis import HealthCheck, settings

# A module that imports another of these comes after it: pytest rewrites asserts before the first import.
pytest_plugins = [
    "tests.support.credentials",
    "tests.support.nats",
    "tests.support.postgres",
    "tests.support.s3",
    "tests.support.example_service",
]

# Nothing that depends on the speed of the machine: no deadline per example, no complaint about slow strategies.
settings.register_profile(
    "search", deadline=None, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow]
)
# The same examples on every run and machine. `--hypothesis-profile search` draws others, and more.
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True, max_examples=60)
settings.load_profile("repeatable")
