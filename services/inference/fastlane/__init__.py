"""The fast lane: gRPC's completion queue driven by one thread of our own, for tensors.

gRPC's two Python servers cost several times what an RPC costs in its C core: threads, coroutines, a context and an
interceptor for each call. Here one thread takes calls from the core, reads their bytes, runs what came together as one
batch, and sends the replies: `core` (all contact with gRPC's private module, so that a new release concerns one file),
`server`, `calls` (every other method: the same servicers and the same guard, on the event loop), `predictions`
(ModelInfer), `heads` (a request that begins like one seen before needs no parsing).

LEPTON_FAST_LANE=false serves with grpc.aio instead: the same answers, tested by the same suite.
"""
