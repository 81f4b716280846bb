"""LEPTON_HOST is read by one syntax; this machine needs no proxy."""

import pytest

from lepton import errors
from lepton.addresses import check_port, is_loopback, parse_host, proxy_variable, target, without_loopback_proxy


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("models.example.org", "models.example.org", None),
        (" models.example.org:9000\n", "models.example.org", 9000),
        ("10.1.2.3:8000", "10.1.2.3", 8000),
        ("localhost", "localhost", None),
        ("my_host-1:1", "my_host-1", 1),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[fe80::1%eth0]:8000", "fe80::1%eth0", 8000),
        ("2001:db8::2", "2001:db8::2", None),
    ],
)
def test_host_and_port_are_told_apart(text: str, host: str, port: int | None) -> None:
    assert parse_host(text, "LEPTON_HOST") == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "host:abc", "host:", ":8000", "http://host:8000", "https://host", "host/path", "a b:8000", "host:0"),
        *("host:99999", "host:65535", "host:-1", "host:8000:9000x", "[::1:8000", "[host]x", "host:٣", "-", "ho\nst"),
        "host:" + "9" * 5000,
    ],
)
def test_other_text_is_refused_with_the_variable(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"^LEPTON_HOST is wrong: .*expected a host name") as refused:
        parse_host(text, "LEPTON_HOST")
    assert refused.value.reason == "BAD_HOST"


def test_port_leaves_room_for_the_others() -> None:
    assert check_port(8000, "base_port") == 8000
    for port in (0, -1, 65_500, True, 8000.0, "8000"):
        with pytest.raises(errors.InvalidArgument, match="base_port is wrong"):
            check_port(port, "base_port")
    assert (target("::1", 8001), target("host", 8001)) == ("[::1]:8001", "host:8001")


def test_loopback_never_has_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    for host in ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(host)
        assert proxy_variable(host) == ""
    for host in ("models.example.org", "10.0.0.1", "128.0.0.1", "localhost.example.org", "::2"):
        assert not is_loopback(host)
        assert proxy_variable(host) == "http_proxy"
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    assert proxy_variable("models.example.org") == "https_proxy"
    monkeypatch.setenv("no_proxy", "other.org, example.org")
    assert proxy_variable("models.example.org") == ""


def test_children_of_the_platform_need_no_proxy_for_each_other() -> None:
    given = {"no_proxy": "example.org,127.0.0.1", "https_proxy": "http://proxy.invalid:3128"}
    found = without_loopback_proxy(given)
    assert found["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    assert found["NO_PROXY"] == "localhost,127.0.0.1,::1"
    assert found["https_proxy"] == given["https_proxy"]
