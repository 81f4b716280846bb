"""The best execution plan for this hardware, chosen by measuring.

A replica serves at once with the plain plan: the graph as it was registered. Then `tuner` has a child process
(`python -m services.inference.plans`) try candidates, and puts the fastest whose quality stays within the stated loss
in the replica's place. `candidates`, `choice` and `quality` are pure; `search`, `graph`, `build`, `rows` and `talk`
load libraries that only the child may hold.
"""
