"""A tiny service's state, for tests of the kit: its tables and their migrations, laid out as a real service's."""
