"""ONNX's own backend tests, answered by a platform and by bare ONNX Runtime: `python -m benchmarks.onnx_backend`.

Each case is uploaded, checked by the registry, deployed, loaded by a worker and asked over gRPC. What bare ONNX Runtime
answers is what the platform must answer.
"""
