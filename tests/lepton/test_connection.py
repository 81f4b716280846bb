"""A failure to connect says what failed: refused, name, TLS, proxy, token, settings."""

import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from lepton import errors
from lepton.connection import Connection, connect
from lepton.connection_errors import Origin, explain
from lepton.embedded.credentials import create_credentials
from lepton.v1 import data_pb2

_LIST = data_pb2.ListDatasetsRequest()
# Of the data service, from the base port.
_OFFSET = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Credentials of one platform, and in `other` those of another."""
    made = tmp_path_factory.mktemp("credentials")
    for name in ("own", "other"):
        create_credentials(made / name)
    return made


@pytest.fixture(scope="module")
def base_port(folder: Path) -> Iterator[int]:
    """The base port of a server that speaks TLS and knows no method."""
    key, certificate = (folder / "own" / f"data.{kind}" for kind in ("key", "pem"))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    server = grpc.server(futures.ThreadPoolExecutor(2))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port - _OFFSET
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def no_proxy_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment says of proxies."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _failure(host: str, folder: Path, base_port: int, ca: str = "own") -> errors.LeptonError:
    authority = folder / ca / "ca.pem"
    with Connection(host, "token", authority.read_bytes(), base_port, ca_source=str(authority)) as connection:
        with pytest.raises(errors.LeptonError) as failed:
            connection.data.ListDatasets(_LIST, timeout=60)
    return failed.value


def test_wrong_authority_names_its_file(folder: Path, base_port: int) -> None:
    failure = _failure("127.0.0.1", folder, base_port, "other")
    assert (type(failure), failure.reason) == (errors.Unavailable, "TLS_FAILED")
    assert str(folder / "other" / "ca.pem") in failure.message
    assert "LEPTON_CA" in failure.message


def test_port_where_nothing_listens_is_refused(folder: Path) -> None:
    failure = _failure("127.0.0.1", folder, _free_port() - _OFFSET)
    assert isinstance(failure, errors.PlatformNotRunning)
    assert "lepton up" in failure.message
    assert "Connection refused" in failure.message


def test_port_of_another_program_is_no_tls(folder: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    failure = _failure("127.0.0.1", folder, port - _OFFSET)
    server.stop(None).wait()
    assert failure.reason == "TLS_FAILED"
    assert "does not speak TLS" in failure.message


def test_silence_is_no_refusal(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        authority = (folder / "own" / "ca.pem").read_bytes()
        with Connection("127.0.0.1", "token", authority, silent.getsockname()[1] - _OFFSET) as connection:
            with pytest.raises(errors.DeadlineExceeded, match="no answer from 127"):
                connection.data.ListDatasets(_LIST, timeout=0.5)


def test_refused_token_is_told_with_where_it_came_from() -> None:
    refused = errors.Unauthenticated("the token is expired", reason="TOKEN_EXPIRED", metadata={"a": "b"})
    found = explain(refused, Origin("host", 8011, "ca.pem", "LEPTON_TOKEN"))
    assert (type(found), found.reason, found.metadata) == (errors.Unauthenticated, "TOKEN_EXPIRED", {"a": "b"})
    assert found.message == "the token is expired (the token is from LEPTON_TOKEN)"
    own = errors.Unavailable("no room", reason="NO_ROOM", metadata={"deployment": "x"})
    assert explain(own, Origin("host", 8011, "ca.pem", "LEPTON_TOKEN")) is own


def test_unknown_name_is_told(folder: Path) -> None:
    failure = _failure("nothing.invalid", folder, 8000)
    assert failure.reason == "UNKNOWN_HOST"
    assert "'nothing.invalid' has no address" in failure.message


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_proxy_is_not_for_this_machine_and_named_elsewhere(
    folder: Path, base_port: int, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://user:secret@127.0.0.1:{_free_port()}")
    for host in ("127.0.0.1", "localhost"):
        assert isinstance(_failure(host, folder, base_port), errors.Unimplemented)
    failure = _failure("models.invalid", folder, base_port)
    assert failure.reason == "PROXY_FAILED"
    assert f"unset {variable}" in failure.message
    assert "secret" not in failure.message


def test_settings_are_checked_before_any_call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    monkeypatch.setenv("LEPTON_CA", str(folder / "own" / "ca.pem"))
    monkeypatch.setenv("LEPTON_TOKEN", "abc\n")
    monkeypatch.setenv("LEPTON_HOST", "127.0.0.1:9000")
    assert connect().base_port == 9000
    for name, value, match in (
        ("LEPTON_HOST", "host:abc", "LEPTON_HOST is wrong: the port"),
        ("LEPTON_HOST", "https://host", "LEPTON_HOST is wrong: it is a URL"),
        ("LEPTON_TOKEN", "abc\ndef", "the token of LEPTON_TOKEN is no token"),
        ("LEPTON_TOKEN", " ", "the token of LEPTON_TOKEN is no token: it is empty"),
        ("LEPTON_CA", __file__, "test_connection.py holds no certificate"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            with pytest.raises(errors.InvalidArgument, match=match):
                connect()
    monkeypatch.delenv("LEPTON_TOKEN")
    token = tmp_path / "token"
    token.write_text("abc\r\n")
    monkeypatch.setenv("LEPTON_TOKEN_FILE", str(token))
    connect()
    for name in ("LEPTON_TOKEN_FILE", "LEPTON_CA"):
        with monkeypatch.context() as changed:
            changed.setenv(name, str(tmp_path / "missing"))
            with pytest.raises(FileNotFoundError, match=f"named by {name}"):
                connect()
    for host, port in (("", None), ("host", -1), ("host", "9000")):
        with pytest.raises(errors.InvalidArgument, match="is wrong"):
            connect(host, base_port=port)  # type: ignore[arg-type]
