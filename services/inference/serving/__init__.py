"""The path of a prediction: codec (bytes to arrays and back), model (ONNX Runtime), table (who is served), servicer.

replicas makes the worker's assignment true. Parsing, checks and encoding are pure functions, so that a faster transport
can call them without gRPC's interceptors.
"""
