"""The path of a prediction: table (who is served), codec (bytes to arrays), model (ONNX Runtime), replies, servicer.

replicas makes the worker's assignment true. Parsing, checks and encoding are pure functions, so that a faster transport
can call them without gRPC's interceptors.
"""
