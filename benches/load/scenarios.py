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
CENTRIFUGO_VERSION = "6.9.1"
CENTRIFUGO = TARGET / f"load/centrifugo-{CENTRIFUGO_VERSION}/centrifugo"


@dataclass(frozen=True)
class Peer:
    """A server: how it is started, and what it understands."""

    name: str
    command: list  # with PORT and REDIS_URL in its environment; {port} and {redis} are filled in
    color: str
    dialect: str = "topics"
    path: str = "/ws"
    has_broker: bool = True


def ours(*options):
    # The peers have no limits, and ours would slow publishers down to 50 messages per second each.
    return [SERVER, "--log=warn", "--limits=off", *options]


def floor(*options):
    return [WSLOAD, "floor", "--port={port}", *options]


def centrifugo(**history):
    """Its own defaults, but for what a load needs: Redis, no tokens, and long queues as at uWebSockets."""
    settings = {
        "http_server_address": "127.0.0.1",
        "http_server_port": "{port}",
        "engine_type": "redis",
        "engine_redis_address": "{redis}",
        "log_level": "error",
        "client_insecure": "true",
        "client_queue_max_size": str(64 * 1024 * 1024),
        **{f"channel_without_namespace_{key}": value for key, value in history.items()},
    }
    # `env` starts it in its own place: the process measured is Centrifugo's.
    return ["env", *(f"CENTRIFUGO_{key.upper()}={value}" for key, value in settings.items()), str(CENTRIFUGO)]


KEPT = {"history_size": "256", "history_ttl": "24h", "force_recovery": "true"}
AT_CENTRIFUGO = ("centrifugo", "/connection/websocket")

PEERS = [
    Peer("floor", floor(), "#8c8c8c", "floor", "/", has_broker=False),
    Peer("floor, batched", floor("--batch"), "#b5b5b5", "floor", "/", has_broker=False),
    Peer("uWebSockets", ["node", str(NODE / "uws-redis.mjs")], "#d9a400"),
    Peer("ws", ["node", str(NODE / "ws-redis.mjs")], "#3a9e4f"),
    Peer("Socket.IO", ["node", str(NODE / "socketio-redis.mjs")], "#a05fc0", "socketio", "/"),
    Peer("axum, naive", [str(TARGET / "peers/release/axum-naive")], "#d9622b"),
    Peer("Centrifugo", centrifugo(), "#e0568a", *AT_CENTRIFUGO),
    Peer("Centrifugo, kept", centrifugo(**KEPT), "#a8285c", *AT_CENTRIFUGO),
    Peer("here, --history 0", ours("--history=0"), "#5fb4f0"),
    Peer("here", ours(), "#2474c8"),
    Peer("here, 2 threads", ours("--history=0", "--threads=2"), "#9ad0f7"),
    Peer("native, --history 0", ours("--history=0"), "#5fd0c4", "native"),
    Peer("native", ours(), "#128a80", "native"),
]

# Who takes part where: each run costs its seconds, and says nothing where the row above says it.
ALL = frozenset(peer.name for peer in PEERS)
# What waits for a write is joined only when there is more than one.
UNBATCHED = ALL - {"floor, batched"}
# A connection costs the same, however many threads there are.
CONNECTED = UNBATCHED - {"here, 2 threads"}
# With a write of 5 µs for each delivery a core delivers less than a seventh of what is wanted.
OVERLOADED = ALL - {"floor", "ws", "Socket.IO", "Centrifugo, kept", "native, --history 0"}
GROWING = frozenset({"floor", "uWebSockets", "Centrifugo", "here, --history 0", "here"})
BESIDE_CENTRIFUGO = frozenset({"Centrifugo", "Centrifugo, kept", "native, --history 0", "native"})
NETWORKED = GROWING - {"floor"}


@dataclass(frozen=True)
class Scenario:
    """A load: options of `wsload run`, over how many servers, and who takes part."""

    name: str
    options: str
    servers: int = 1
    peers: frozenset = ALL


BATCH = "--members 1000 --window 16"
ROOMS = "--members 1000 --rooms 200 --publishers 50 --window 4"
SCENARIOS = [
    Scenario("one", "--members 1000", peers=UNBATCHED),
    Scenario("batch", BATCH),
    Scenario("rate", "--members 1000 --rate 20 --seconds 2", peers=UNBATCHED),
    # Some would deliver for a minute after the end.
    Scenario("overload", "--members 1000 --rate 1500 --drain 1", peers=OVERLOADED),
    Scenario("rooms", ROOMS, peers=UNBATCHED),
    Scenario("idle", "--members 10000 --rooms 2000 --publishers 20 --idle --seconds 0.1", peers=CONNECTED),
    Scenario("storm", "--members 5000 --rooms 1000 --publishers 20 --idle --seconds 0.1", peers=CONNECTED),
    Scenario("members-100", "--members 100", peers=GROWING),
    Scenario("members-5000", "--members 5000", peers=GROWING),
    # One message in flight per room, whatever their number, as in `rooms`.
    Scenario("rooms-10", "--members 50 --rooms 10 --publishers 2 --window 5", peers=GROWING),
    # A server that has just taken 10,000 connections takes longer to settle.
    Scenario("rooms-2000", "--members 10000 --rooms 2000 --publishers 500 --window 4 --warmup 3", peers=GROWING),
    Scenario("batch-2", BATCH, 2, NETWORKED | BESIDE_CENTRIFUGO),
    Scenario("servers-2", ROOMS, 2, NETWORKED | BESIDE_CENTRIFUGO),
    Scenario("servers-3", ROOMS, 3, NETWORKED),
]
