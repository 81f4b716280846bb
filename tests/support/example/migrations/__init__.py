"""The versions of the example service's schema."""
