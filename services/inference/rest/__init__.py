"""The Open Inference Protocol v2 over REST, in the worker's own process: JSON, and tensors as binary data beside it.

`server` (uvicorn on the process's event loop), `app` (routes, who may call, errors), `bodies` (bytes within limits),
`codec` (JSON and binary data to the gRPC messages and back: so both protocols have one validation and one way to run).
"""
