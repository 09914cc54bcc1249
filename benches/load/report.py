"""Results as tables and plots: the generated part of docs/performance.md."""

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import textwrap
from itertools import compress

import plot
from scenarios import AXUM, CENTRIFUGO_VERSION, NODE, PEERS, ROOT, SERVER

PAGE = ROOT / "docs/performance.md"
PLOTS = ROOT / "docs/performance"
BEGIN, END = "<!-- compare -->", "<!-- /compare -->"

# What grows, and the scenario of each step.
GROWTH = {
    "members": ("members of one room", [("100", "members-100"), ("1,000", "one"), ("5,000", "members-5000")]),
    "rooms": ("rooms of 5", [("10", "rooms-10"), ("200", "rooms"), ("2,000", "rooms-2000")]),
    "servers": ("servers, 200 rooms of 5", [("1", "rooms"), ("2", "servers-2"), ("3", "servers-3")]),
}
# Ours, and Centrifugo's that does the same, as columns of the table beside it.
BESIDE_CENTRIFUGO = {
    "": ("native, --history 0", "Centrifugo"),
    "kept": ("native", "Centrifugo, kept"),
}
LOADS = ["one", "batch", "rooms", "batch-2", "servers-2", "rate"]
PERCENTILES = [
    ("p50", "p50_us"),
    ("p90", "p90_us"),
    ("p99", "p99_us"),
    ("p99.9", "p999_us"),
    ("max", "max_us"),
]


def write(rows):
    results = Results(rows)
    PLOTS.mkdir(exist_ok=True)
    sections = [about(results), cpu(results), throughput(results), latency(results)]
    sections += [overload(results), memory(results), two_servers(results), beside_centrifugo(results)]
    sections += [growth(results, name) for name in GROWTH]
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    generated = "\n\n".join(section for section in sections if section)
    PAGE.write_text(f"{before}{BEGIN}\n\n{generated}\n\n{END}{rest.split(END)[1]}")


class Results:
    """Medians of the runs of each peer in each scenario."""

    def __init__(self, rows):
        self.rows, self.runs = rows, {}
        for row in rows:
            self.runs.setdefault((row["peer"], row["scenario"]), []).append(row)
        measured = {row["peer"] for row in rows}
        self.peers = [peer for peer in PEERS if peer.name in measured]
        self.names = [peer.name for peer in self.peers]

    def median(self, name, scenario, key):
        """Of a figure, or of what a function makes of a run."""
        runs = self.runs.get((name, scenario))
        figure = key if callable(key) else lambda run: run[key]
        return statistics.median(figure(run) for run in runs) if runs else None

    def column(self, scenario, key, peers=None, factor=1):
        values = [self.median(peer.name, scenario, key) for peer in peers or self.peers]
        return [None if value is None else value * factor for value in values]

    def has(self, *scenarios):
        return all(any(scenario == name for _, name in self.runs) for scenario in scenarios)


def about(results):
    loads = [row["other_share"] for row in results.rows if row["sent"]]
    others = statistics.mean(loads) if loads else 0
    wrong = {key: sum(row[key] for row in results.rows) for key in ("lost", "doubled", "reordered")}
    order = "Nothing was lost, doubled or reordered in any run."
    if any(wrong.values()):
        counts = ", ".join(f"{number:,} {key}" for key, number in wrong.items())
        order = f"Of all messages: {counts}, by {', '.join(losers(results))}."
    figures = (
        f"The figures are {runs(results)}; other processes took {others:.2f} of the"
        f" {os.cpu_count()} cores on average at the same time. {order}"
    )
    return "\n\n".join(textwrap.fill(paragraph, 100) for paragraph in (versions(results), figures))


def runs(results):
    counts = sorted({len(runs) for runs in results.runs.values()})
    if counts == [1]:
        return "those of single runs"
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seconds = max(row["seconds"] for row in results.rows)
    return f"medians of {number} alternating runs of {seconds:g} seconds"


def losers(results):
    faulty = {row["peer"] for row in results.rows if row["lost"] or row["doubled"] or row["reordered"]}
    return [peer.name for peer in results.peers if peer.name in faulty]


def versions(results):
    npm = json.loads((NODE / "package.json").read_text())["dependencies"]
    axum = re.search(r'axum = \{ version = "=([\d.]+)"', (AXUM / "Cargo.toml").read_text())[1]
    known = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    model = known[1].strip() if known else platform.machine()
    node, redis = first_number("node", "--version"), first_number("redis-server", "--version")
    measured = {peer.dialect for peer in results.peers}
    centrifugo = f" Centrifugo {CENTRIFUGO_VERSION} with its Redis engine;" if "centrifugo" in measured else ""
    return (
        f"uWebSockets.js (npm `uwebsockets` {npm['uwebsockets']}), `ws` {npm['ws']}, Socket.IO"
        f" {npm['socket.io']} with its Redis adapter {npm['@socket.io/redis-adapter']}, on Node"
        f" {node} with `redis` {npm['redis']}; axum {axum} with a broadcast channel per room;{centrifugo}"
        f" chat-server {first_number(SERVER, '--version')}; Redis {redis}; Linux"
        f" {platform.release().split('-')[0]}, {os.cpu_count()} cores, {model}."
    )


def first_number(*command):
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+(\.\d+)+", version)[0]


def cpu(results):
    panels = [("one in flight", "one"), ("16 in flight", "batch"), ("200 rooms of 5", "rooms")]
    if not results.has(*(name for _, name in panels)):
        return None
    key = "cpu_us_per_delivery"
    columns = [(heading, results.column(name, key), number) for heading, name in panels]
    redis = results.column("rooms", broker_us_per_message)
    redis = [value if peer.has_broker else None for peer, value in zip(results.peers, redis)]
    save("cpu", results, [(heading, "µs per delivery", *rest) for heading, *rest in columns])
    return section(
        "CPU per delivery",
        "CPU of the server per delivered message, µs; the last column is that of Redis in `rooms`, per\n"
        "message, of which each is delivered five times.",
        table(results.names, [*columns, ("Redis, per message", redis, number)]),
        "cpu",
    )


def broker_us_per_message(run):
    return run["broker_share"] * 1e6 / max(run["messages_per_second"], 1)


def throughput(results):
    panels = [("one in flight", "one"), ("16 in flight", "batch"), ("200 rooms of 5", "rooms")]
    if not results.has(*(name for _, name in panels)):
        return None
    columns = []
    for heading, name in panels:
        columns.append((heading, results.column(name, "deliveries_per_second", factor=1e-3), thousands))
    save("throughput", results, [(heading, "deliveries per second", *rest) for heading, *rest in columns])
    return section(
        "Throughput",
        "Deliveries per second, with load generator, Redis and server on the same cores: the ranking is\n"
        "that of the CPU of all three together.",
        table(results.names, columns),
        "throughput",
    )


def latency(results):
    if not results.has("rate"):
        return None
    columns = [(heading, results.column("rate", key, factor=1e-3), number) for heading, key in PERCENTILES]
    series = []
    for index, peer in enumerate(results.peers):
        series.append((peer.name, peer.color, [values[index] for _, values, _ in columns]))
    ticks = [heading for heading, _ in PERCENTILES]
    title = "Latency at 20 messages per second"
    save_lines("latency", title, "percentile", "milliseconds", ticks, series=series)
    return section("Latency", "From send to arrival in `rate`, ms.", table(results.names, columns), "latency")


def overload(results):
    if not results.has("overload"):
        return None
    columns = [("deliveries per second", results.column("overload", "deliveries_per_second", factor=1e-3), thousands)]
    for heading, key in PERCENTILES:
        columns.append((heading, results.column("overload", key, factor=1e-3), number))
    return section(
        "Overload",
        "1,500 messages per second into one room of 1,000: 1,500 k deliveries per second are wanted.\n"
        "Latency in ms; a server that does not keep up falls behind by the length of the run.",
        table(results.names, columns),
    )


def memory(results):
    if not results.has("idle", "storm"):
        return None
    joins = [row and 5_000e3 / row for row in results.column("storm", "reached_ms")]
    columns = [
        ("memory, KiB", results.column("idle", "kib_per_connection"), number),
        ("CPU of a join, µs", results.column("storm", "join_cpu_us"), whole),
        ("joins per second", joins, whole),
    ]
    units = ["KiB per connection", "µs per connection", "connections per second"]
    headings = ["memory", "connect and join", "connect and join"]
    panels = zip(headings, units, columns)
    save("memory", results, [(heading, unit, *rest) for heading, unit, (_, *rest) in panels])
    return section(
        "Connections",
        "Memory of the server per connection in `idle`; what a connection and a join cost in `storm`.",
        table(results.names, columns),
        "memory",
    )


def two_servers(results):
    if not results.has("batch-2", "servers-2"):
        return None
    columns = [
        ("one room, 16 in flight", results.column("batch-2", "cpu_us_per_delivery"), number),
        ("200 rooms of 5", results.column("servers-2", "cpu_us_per_delivery"), number),
        ("Redis, per message", results.column("servers-2", broker_us_per_message), number),
    ]
    text = "CPU of both servers per delivered message, µs, and that of Redis per message of the 200 rooms."
    return section("Two servers", text, table(results.names, columns))


def beside_centrifugo(results):
    """Ratios: of loads in one table, of connections in another."""
    names = {name for pair in BESIDE_CENTRIFUGO.values() for name in pair}
    if not names <= set(results.names):
        return None
    loads = [
        ("CPU of the server", "cpu_us_per_delivery", LOADS),
        # At a few hundred messages a second Redis has nothing to do that could be measured.
        ("CPU of Redis", broker_us_per_message, ["rooms", "servers-2"]),
        ("p99", "p99_us", LOADS),
    ]
    connections = [
        ("CPU of connect and join", "join_cpu_us", ["idle", "storm"]),
        ("resident memory", "kib_per_connection", ["idle"]),
    ]
    return section(
        "Beside Centrifugo",
        "The figures of the native dialect divided by those of Centrifugo in the same scenario, without\n"
        "history and with the same one kept. Below 1, ours are the lower.",
        f"{ratios(results, LOADS, loads)}\n\n{ratios(results, ['idle', 'storm'], connections)}",
    )


def ratios(results, scenarios, figures):
    columns = []
    for heading, key, where in figures:
        for kept, pair in BESIDE_CENTRIFUGO.items():
            values = [ratio(results, scenario, key, pair) if scenario in where else None for scenario in scenarios]
            columns.append((f"{heading}, {kept}" if kept else heading, values, number))
    return table([f"`{scenario}`" for scenario in scenarios], columns)


def ratio(results, scenario, key, pair):
    ours, theirs = (results.median(name, scenario, key) for name in pair)
    return ours / theirs if ours is not None and theirs else None


def growth(results, name):
    what, steps = GROWTH[name]
    if not results.has(*(scenario for _, scenario in steps)):
        return None
    # Those that were measured at each step.
    peers = [peer for peer in results.peers if all((peer.name, scenario) in results.runs for _, scenario in steps)]
    key = "cpu_us_per_delivery"
    columns = [(step, results.column(scenario, key, peers), number) for step, scenario in steps]
    series = []
    for index, peer in enumerate(peers):
        series.append((peer.name, peer.color, [values[index] for _, values, _ in columns]))
    ticks = [step for step, _ in steps]
    save_lines(name, f"CPU per delivery and {what}", what, "CPU, µs per delivery", ticks, series=series)
    text = "CPU of all servers per delivered message, µs."
    return section(f"Growth: {what}", text, table([peer.name for peer in peers], columns), name)


def save(name, results, panels):
    """Without the peers that took part in none of the panels."""
    shown = [any(values) for values in zip(*(values for _, _, values, _ in panels))]
    series = [(peer.name, peer.color) for peer in compress(results.peers, shown)]
    panels = [(heading, unit, list(compress(values, shown)), form) for heading, unit, values, form in panels]
    title = f"{name}: " + ", ".join(heading for heading, *_ in panels)
    (PLOTS / f"{name}.svg").write_text(plot.bars(title, series, panels))


def save_lines(name, *labels, series):
    shown = [(who, color, values) for who, color, values in series if any(values)]
    (PLOTS / f"{name}.svg").write_text(plot.lines(*labels, shown))


def section(heading, text, lines, picture=None):
    shown = f"\n\n![{heading}](performance/{picture}.svg)" if picture else ""
    return f"### {heading}\n\n{text}\n\n{lines}{shown}"


def table(names, columns):
    """A line for each name that has a figure."""
    lines = ["| | " + " | ".join(heading for heading, *_ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for index, name in enumerate(names):
        cells = ["–" if values[index] is None else form(values[index]) for _, values, form in columns]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value):
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def whole(value):
    return f"{value:,.0f}"


def thousands(value):
    return f"{value:,.0f} k"
