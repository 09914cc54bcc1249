"""Who is measured, and under which loads."""

import os
import pathlib
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WSLOAD = str(TARGET / "release/wsload")
SERVER = str(TARGET / "release/chat-server")
NODE = HERE / "peers/node"
AXUM = HERE / "peers/axum"


@dataclass(frozen=True)
class Peer:
    """A server: how it is started, and what it understands."""

    name: str
    command: list  # with PORT and REDIS_URL in its environment, and {port} filled in here
    color: str
    dialect: str = "topics"
    path: str = "/ws"
    has_broker: bool = True
    grows: bool = True  # whether it takes part in the scenarios of growth


def ours(*options):
    # The peers have no limits, and ours would slow publishers down to 50 messages per second each.
    return [SERVER, "--log=warn", "--limits=off", *options]


def floor(*options):
    return [WSLOAD, "floor", "--port={port}", *options]


PEERS = [
    Peer("floor", floor(), "#8c8c8c", "floor", "/", has_broker=False),
    Peer("floor, batched", floor("--batch"), "#b5b5b5", "floor", "/", has_broker=False, grows=False),
    Peer("uWebSockets", ["node", str(NODE / "uws-redis.mjs")], "#d9a400"),
    Peer("ws", ["node", str(NODE / "ws-redis.mjs")], "#3a9e4f"),
    Peer("Socket.IO", ["node", str(NODE / "socketio-redis.mjs")], "#a05fc0", "socketio", "/"),
    Peer("axum, naive", [str(TARGET / "peers/release/axum-naive")], "#d9622b"),
    Peer("here, --history 0", ours("--history=0"), "#5fb4f0"),
    Peer("here", ours(), "#2474c8"),
    Peer("here, 2 threads", ours("--history=0", "--threads=2"), "#9ad0f7", grows=False),
    Peer("here, native", ours("--history=0"), "#1fa8a0", "native", grows=False),
]


@dataclass(frozen=True)
class Scenario:
    """A load: options of `wsload run`, and over how many servers."""

    name: str
    options: str
    servers: int = 1
    growth: bool = False


SCENARIOS = [
    Scenario("one", "--members 1000"),
    Scenario("batch", "--members 1000 --window 16"),
    Scenario("rate", "--members 1000 --rate 20"),
    Scenario("overload", "--members 1000 --rate 1500"),
    Scenario("rooms", "--members 1000 --rooms 200 --publishers 50 --window 4"),
    Scenario("idle", "--members 10000 --rooms 2000 --publishers 20 --idle --seconds 1"),
    Scenario("storm", "--members 5000 --rooms 1000 --publishers 20 --idle --seconds 0.1"),
    Scenario("members-100", "--members 100", growth=True),
    Scenario("members-5000", "--members 5000", growth=True),
    # One message in flight per room, whatever their number, as in `rooms`.
    Scenario("rooms-10", "--members 50 --rooms 10 --publishers 2 --window 5", growth=True),
    # A server that has just taken 10,000 connections takes longer to settle.
    Scenario("rooms-2000", "--members 10000 --rooms 2000 --publishers 500 --window 4 --warmup 4", growth=True),
    Scenario("servers-2", "--members 1000 --rooms 200 --publishers 50 --window 4", 2, growth=True),
    Scenario("servers-3", "--members 1000 --rooms 200 --publishers 50 --window 4", 3, growth=True),
]
