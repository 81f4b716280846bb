"""Failures to connect, by their cause: refused, name, TLS, proxy, token, deadline."""

from dataclasses import dataclass

from lepton import errors
from lepton.addresses import proxy_variable, target


@dataclass(frozen=True)
class Origin:
    """Where a connection's settings come from, for messages.

    Args:
        host: the platform's host.
        port: of the service.
        ca: what names the certificate authority: a file's path, or an argument.
        token: what gave the token: a variable, a file's path, or an argument.
    """

    host: str
    port: int
    ca: str
    token: str

    @property
    def address(self) -> str:
        """Host and port."""
        return target(self.host, self.port)


def explain(error: errors.LeptonError, origin: Origin) -> errors.LeptonError:
    """Return an error of a call with what really failed, where the platform itself did not answer or refused the token.

    Args:
        error: as the status says it.
        origin: of the connection.
    """
    if isinstance(error, errors.Unauthenticated):
        message = f"{error.message} (the token is from {origin.token})"
        return errors.Unauthenticated(message, reason=error.reason, metadata=error.metadata)
    if error.metadata or error.reason != type(error).status:
        return error
    if isinstance(error, errors.DeadlineExceeded) and error.message == "Deadline Exceeded":
        return errors.DeadlineExceeded(
            f"no answer from {origin.address} in time: the platform is busy, or what listens there is another program"
        )
    if not isinstance(error, errors.Unavailable):
        return error
    return _unavailable(error, origin)


def _unavailable(error: errors.LeptonError, origin: Origin) -> errors.LeptonError:
    text = error.message
    proxy = proxy_variable(origin.host)
    if proxy and any(mark in text for mark in ("connect", "proxy", "resolving")):
        return errors.Unavailable(
            f"cannot reach {origin.address} through the proxy of {proxy}: unset {proxy}, or add {origin.host} to "
            f"no_proxy ({_last(text)})",
            reason="PROXY_FAILED",
        )
    if "CERTIFICATE_VERIFY_FAILED" in text or "peer certificate" in text or "Peer name" in text:
        return errors.Unavailable(
            f"TLS failed at {origin.address}: its certificate is not signed by the authority of {origin.ca}, or is of "
            "another host; give that platform's ca.pem, as LEPTON_CA or connect(ca=...)",
            reason="TLS_FAILED",
        )
    if "handshake" in text.lower() or "SSL" in text:
        return errors.Unavailable(
            f"TLS failed at {origin.address}: what listens there does not speak TLS; is it another program's port? "
            f"({_last(text)})",
            reason="TLS_FAILED",
        )
    if "resolv" in text or "lookup" in text or "not found" in text:
        return errors.Unavailable(
            f"the host {origin.host!r} has no address: check its spelling, in LEPTON_HOST or connect(host)",
            reason="UNKNOWN_HOST",
        )
    if "connect" in text:
        return errors.PlatformNotRunning(
            f"nothing answers at {origin.address}: is the platform up? (`lepton status`; `lepton up` starts it) "
            f"({_last(text)})",
            reason="PLATFORM_NOT_RUNNING",
        )
    return error


def _last(text: str) -> str:
    """Return what gRPC says last: the cause."""
    return text.rpartition(": ")[2].strip() or text
