"""Calls between processes: what guards a server, and how a service calls another.

guard, calls: the server's interceptor, and one call under way; permissions, validation, statuses: the pure functions
that they use; channel: the client's side; deadlines: what passes from the one to the other.
"""

from typing import Any, TypeAlias

from grpc.aio import ServicerContext

from servicekit.rpc.channel import open_channel, raw_channel
from servicekit.rpc.deadlines import bounded_timeout, set_deadline
from servicekit.rpc.guard import Guard, check_answer

__all__ = ["Context", "Guard", "bounded_timeout", "check_answer", "open_channel", "raw_channel", "set_deadline"]

# What a servicer method gets beside its request.
Context: TypeAlias = ServicerContext[Any, Any]
