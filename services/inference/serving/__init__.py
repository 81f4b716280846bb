"""The path of a prediction: table (who is served), codec and questions (bytes to arrays), batcher, model, replies.

session, loading and warm_up make a version ready to run; bound is how it runs on a GPU.

replicas makes the worker's assignment true. Parsing, checks and encoding are pure functions, so that a faster transport
can call them without gRPC's interceptors.
"""
