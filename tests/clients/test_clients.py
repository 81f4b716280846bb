"""A client of each language, with stubs generated from protos/, goes from a CSV file to a prediction over TLS."""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

import lepton
from lepton.versions import ModelVersion
from tests.support.platform import Platform

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent
PROTOS = ROOT / "protos"
BUILT = ROOT / "build" / "clients"
PROTO_FILES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
JARS = Path("/usr/share/java")
JNI = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "") / "jni" / "libnetty-tcnative.so"


@dataclass(frozen=True)
class Client:
    """A client of one language.

    Args:
        name: the language.
        build: generates stubs, compiles, and returns the command; called once it is known that all is there.
        commands: what must be on the path.
        files: what must be on the disk.
        environment: variables of the command's own.
    """

    name: str
    build: Callable[[Path], list[str]]
    commands: tuple[str, ...]
    files: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Return the commands and files that this machine lacks."""
        return [name for name in self.commands if shutil.which(name) is None] + [
            str(path) for path in self.files if not path.exists()
        ]


def _node(folder: Path) -> list[str]:
    shutil.copy(SOURCES / "node" / "package.json", folder)
    _run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder)
    return ["node", str(SOURCES / "node" / "walk.js")]


def _go(folder: Path) -> list[str]:
    sources = folder / "src"
    sources.mkdir(exist_ok=True)
    # One package a run: protoc-gen-go makes no two at once.
    for package in ("inference", "lepton/v1"):
        files = [name for name in PROTO_FILES if name.startswith(f"{package}/")]
        _run(["protoc", f"-I{PROTOS}", f"--go_out={sources}", f"--go-grpc_out={sources}", *files])
    # Debian brings libraries as sources under a GOPATH.
    environment = {"GO111MODULE": "off", "GOPATH": f"{folder}:/usr/share/gocode", "GOFLAGS": ""}
    _run(["go", "build", "-o", str(folder / "walk"), str(SOURCES / "go" / "walk.go")], environment)
    return [str(folder / "walk")]


_JARS = [
    *("grpc-api", "grpc-context", "grpc-core", "grpc-netty", "grpc-protobuf", "grpc-protobuf-lite", "grpc-stub"),
    *("netty-buffer", "netty-codec", "netty-codec-http", "netty-codec-http2", "netty-common", "netty-handler"),
    *("netty-resolver", "netty-transport", "netty-transport-native-unix-common", "netty-tcnative"),
    *("geronimo-annotation-1.3-spec", "gson", "guava", "perfmark-api", "protobuf"),
]


def _java(folder: Path) -> list[str]:
    stubs, classes, native = (folder / name for name in ("stubs", "classes", "native"))
    for path in (stubs, classes, native):
        path.mkdir(exist_ok=True)
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    _run(["protoc", f"-I{PROTOS}", plugin, f"--java_out={stubs}", f"--grpc-java_out={stubs}", *PROTO_FILES])
    jars = ":".join(str(JARS / f"{name}.jar") for name in _JARS)
    sources = [str(path) for path in stubs.rglob("*.java")]
    _run(["javac", "-nowarn", "-d", str(classes), "-cp", jars, *sources, str(SOURCES / "java" / "Walk.java")])
    # Debian's netty has no ALPN of the JDK's; its OpenSSL is looked for under this name, and a link is not taken.
    shutil.copy(JNI, native / "libnetty_tcnative.so")
    return ["java", f"-Djava.library.path={native}", "-cp", f"{classes}:{jars}", "Walk"]


def _ruby(folder: Path) -> list[str]:
    command = ["grpc_tools_ruby_protoc", f"-I{PROTOS}", f"--ruby_out={folder}", f"--grpc_out={folder}"]
    _run([*command, *PROTO_FILES])
    return ["ruby", "-I", str(folder), str(SOURCES / "ruby" / "walk.rb")]


_GO_LIBRARIES = Path("/usr/share/gocode/src/google.golang.org")
CLIENTS = [
    Client("node", _node, ("node", "npm"), environment={"NODE_PATH": str(BUILT / "node" / "node_modules")}),
    Client(
        "go",
        _go,
        ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"),
        (_GO_LIBRARIES / "grpc", _GO_LIBRARIES / "protobuf"),
    ),
    Client(
        "java",
        _java,
        ("java", "javac", "protoc", "grpc_java_plugin"),
        (*(JARS / f"{name}.jar" for name in _JARS), JNI),
    ),
    Client("ruby", _ruby, ("ruby", "grpc_tools_ruby_protoc")),
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_client_goes_from_a_file_to_a_prediction(platform: Platform, client: Client) -> None:
    missing = client.missing()
    if missing:
        packages = (SOURCES / client.name / "debian-packages.txt").read_text().split()
        pytest.skip(f"no {', '.join(missing)}: on Debian, apt-get install {' '.join(packages)}")
    folder = BUILT / client.name
    folder.mkdir(parents=True, exist_ok=True)
    command = client.build(folder)
    told = json.loads(_walk(platform, command, f"line-{client.name}", client.environment))

    # The line is y = 3 x + 1.
    assert told["rows"] == pytest.approx(3001, abs=0.01)
    assert told["tensor"] == told["rows"]
    assert told["refusal"].upper() == "UNAUTHENTICATED"
    # What the client did is there for others, too.
    connection = platform.connect()
    version = ModelVersion.get(f"line-{client.name}@champion", connection=connection)
    assert told["version"] == f"line-{client.name}@1"
    assert version.ref == told["version"]
    assert lepton.Dataset.get(f"line-{client.name}", connection=connection).message.rows == 200


def _walk(platform: Platform, command: list[str], name: str, environment: dict[str, str]) -> str:
    credentials = platform.home / "credentials"
    arguments = ["localhost", str(platform.base_port), str(credentials / "ca.pem"), str(credentials / "token"), name]
    if "NODE_PATH" in environment:
        # It reads the files themselves.
        arguments.append(str(PROTOS))
    return _run([*command, *arguments], environment)


def _run(command: list[str], environment: Mapping[str, str] = MappingProxyType({}), cwd: Path = ROOT) -> str:
    """Return what a command prints; fail with what it says where it fails."""
    ended = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=600
    )
    assert ended.returncode == 0, f"{command[0]}: {ended.stdout[-1000:]}{ended.stderr[-3000:]}"
    return ended.stdout
