"""What the command line asks for."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import BASE_PORT

ROWS = {
    "tiny": "30 floats into a small network, one row a request",
    "credit": "the credit model: 20 raw columns, strings among them",
    "minilm": "MiniLM sequence classification, 32 tokens, plain plan and chosen plan",
    "cnn": "a quarter-width ResNet-18 at 3x224x224, plain plan and chosen plan",
    "single": "the tiny model, one request at a time",
    "tail": "MiniLM at 70% load, arrivals evenly spaced and at random: what the p99 adds to the service time",
    "swap": "the tiny model at 80% load, another version every 5 s: failures, and memory",
}
# What each row asks.
MODELS = {row: row for row in ("tiny", "credit", "minilm", "cnn")} | {
    "single": "tiny",
    "tail": "minilm",
    "swap": "tiny",
}
PEERS = ("kserve", "mlserver", "pytriton", "litserve", "bentoml", "rayserve")


@dataclass(frozen=True)
class Options:
    """What to measure, and how long.

    Args:
        rows: names of ROWS.
        peers: names of PEERS.
        tls: of Lepton's ports: "on", "off" or both.
        seconds: of one run.
        runs: of each figure; the median counts.
        warm_up_seconds: before each run.
        in_flight: requests under way in a closed loop.
        streams: of those, how many share a connection.
        tail_seconds, swap_seconds: of those two rows.
        threads: of ONNX Runtime, in every server.
        base_port: the platform's first port.
        cache: the folder of environments and models.
        server_core, load_core: what they are pinned to.
    """

    rows: tuple[str, ...]
    peers: tuple[str, ...]
    tls: tuple[str, ...]
    seconds: float
    runs: int
    warm_up_seconds: float
    in_flight: int
    streams: int
    tail_seconds: float
    swap_seconds: float
    threads: int
    base_port: int
    cache: Path
    server_core: int
    load_core: int


def parse_options(arguments: list[str] | None = None) -> Options:
    """Return what the command line asks for; end the program with a message where that is nonsense."""
    parser = _parser()
    given = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("a server and a load generator need a core each, and this machine gives one")
    if given.in_flight % given.streams:
        parser.error(f"--in-flight {given.in_flight} is no multiple of --streams {given.streams}")
    return Options(
        rows=given.rows,
        peers=given.peers,
        tls=("off", "on") if given.tls == "both" else (given.tls,),
        seconds=given.seconds,
        runs=given.runs,
        warm_up_seconds=min(1.0, given.seconds / 2),
        in_flight=given.in_flight,
        streams=given.streams,
        tail_seconds=given.tail_seconds,
        swap_seconds=given.swap_seconds,
        threads=given.threads,
        base_port=given.base_port,
        cache=given.cache,
        server_core=cores[0],
        load_core=cores[1],
    )


def _parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:8}{text}" for name, text in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=f"Measure Lepton's predictions beside other servers. Rows:\n{rows}\nPeers: {', '.join(PEERS)}; "
        "each is installed in an environment of its own at first use.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_some(tuple(ROWS)), default=tuple(ROWS), help="comma-separated; default: all")
    parser.add_argument(
        "--peers",
        type=_some(PEERS),
        default=PEERS,
        help="comma-separated, all or none; default: all, one after another",
    )
    parser.add_argument("--tls", choices=["both", "on", "off"], default="both", help="of Lepton's port")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run (default 4)")
    parser.add_argument("--runs", type=int, default=5, help="of each figure; the median counts (default 5)")
    parser.add_argument("--in-flight", type=int, default=32, help="requests under way (default 32)")
    parser.add_argument("--streams", type=int, default=1, help="requests under way on a connection (default 1)")
    parser.add_argument("--tail-seconds", type=float, default=60.0, help="of the row tail (default 60)")
    parser.add_argument("--swap-seconds", type=float, default=600.0, help="of the row swap (default 600)")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime in every server (default 1)")
    parser.add_argument("--base-port", type=int, default=BASE_PORT, help=f"of the platform (default {BASE_PORT})")
    parser.add_argument("--cache", type=Path, default=_cache(), help="folder of environments and models")
    return parser


def _some(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of comma-separated known names."""

    def names(text: str) -> tuple[str, ...]:
        if text in ("all", "none"):
            return known if text == "all" else ()
        found = tuple(text.split(","))
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: there are {', '.join(known)}")
        return found

    return names


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton-benchmarks"
