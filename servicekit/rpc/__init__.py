"""Calls between processes: what guards a server, and how a service calls another.

guard: the server's interceptor; permissions, validation, statuses: the pure functions that it calls; channel: the
client's side.
"""

from grpc.aio import ServicerContext

from servicekit.rpc.channel import open_channel
from servicekit.rpc.guard import Guard

__all__ = ["Context", "Guard", "open_channel"]

# What a servicer method gets beside its request; the generated stubs' own context type is wider than what aio gives.
Context = ServicerContext
