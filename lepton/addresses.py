"""Where a platform is: the syntax of LEPTON_HOST, loopback addresses, and the proxies that gRPC would use."""

import ipaddress
import os
import re

from lepton import errors

# The largest offset of a platform's ports is below this.
_OFFSETS = 400
# What gRPC reads, in its order.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCLUDING_VARIABLES = ("no_grpc_proxy", "no_proxy")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_EXPECTED = (
    "expected a host name or address, optionally with the base port: models.example.org, 10.1.2.3:8000, [::1]:8000"
)


def parse_host(text: str, source: str) -> tuple[str, int | None]:
    """Return the host and the base port of a text; None where it has no port.

    Args:
        text: `host`, `host:port`, an IPv6 address, or `[IPv6]:port`.
        source: what gave the text, for the message: LEPTON_HOST, say.

    Raises:
        InvalidArgument: BAD_HOST: it is none of these.
    """
    given = text.strip()
    if "://" in given or "/" in given:
        raise _bad_host(source, "it is a URL; leave out the scheme and the path")
    host, port = _split(given)
    if port is not None and not (port.isascii() and port.isdigit()):
        raise _bad_host(source, "the port behind the colon is missing or no number")
    number = None if port is None else check_port(int(port[:6]), source)
    if not _NAME.fullmatch(host) and not _is_address(host):
        raise _bad_host(source, "it is empty" if not given else "its host is no name or address")
    return host, number


def check_port(port: object, source: str) -> int:
    """Return a platform's first port.

    Raises:
        InvalidArgument: BAD_HOST: it is no whole number from 1 to 65,135: some hundred ports follow it.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536 - _OFFSETS:
        raise _bad_host(source, f"the base port must be a whole number from 1 to {65535 - _OFFSETS}")
    return port


def target(host: str, port: int) -> str:
    """Return host and port as gRPC takes them: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: localhost, 127.0.0.0/8, ::1."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def proxy_variable(host: str) -> str:
    """Return the variable whose proxy gRPC uses for a host; empty for none."""
    if is_loopback(host):
        return ""
    name = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), "")
    excluded = next(filter(None, map(os.environ.get, _EXCLUDING_VARIABLES)), "")
    if any(host.endswith(item.strip()) for item in excluded.split(",") if item.strip()):
        return ""
    return name


def without_loopback_proxy(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which proxies never apply to this machine."""
    added = ("localhost", "127.0.0.1", "::1")
    result = dict(environment)
    for name in ("no_proxy", "NO_PROXY"):
        present = [item.strip() for item in environment.get(name, "").split(",") if item.strip()]
        result[name] = ",".join([*present, *(item for item in added if item not in present)])
    return result


def _split(given: str) -> tuple[str, str | None]:
    if given.startswith("[") and "]" in given:
        host, _, rest = given[1:].partition("]")
        return host, rest.removeprefix(":") if rest else None
    if given.count(":") > 1:
        return given, None
    host, colon, port = given.partition(":")
    return host, port if colon else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _bad_host(source: str, what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{source} is wrong: {what}; {_EXPECTED}", reason="BAD_HOST")
