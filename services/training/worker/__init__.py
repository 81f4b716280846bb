"""A training worker: takes jobs from its assignment and runs each in a child process."""
