"""The process that runs one job: reads rows, trains, exports, measures parity, registers.

It reads its spec from stdin and tells how it goes on stdout, one JSON line each; logs go to stderr.
"""
