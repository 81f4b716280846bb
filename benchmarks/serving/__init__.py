"""Predictions a second and how long they take, Lepton beside other servers: `python -m benchmarks.serving`.

The server is pinned to one core, the load generator to another; a closed loop of so many requests in flight, unless a
row says otherwise. Every server runs the same ONNX file with as many threads.
"""
