"""One command a figure; each prints a table and JSON."""
