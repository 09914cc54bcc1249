"""Results as tables and plots: the generated part of docs/performance.md."""

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import textwrap

import plot
from scenarios import AXUM, NODE, PEERS, ROOT, SERVER

PAGE = ROOT / "docs/performance.md"
PLOTS = ROOT / "docs/performance"
BEGIN, END = "<!-- compare -->", "<!-- /compare -->"

# What grows, and the scenario of each step.
GROWTH = {
    "members": ("members of one room", [("100", "members-100"), ("1,000", "one"), ("5,000", "members-5000")]),
    "rooms": ("rooms of 5", [("10", "rooms-10"), ("200", "rooms"), ("2,000", "rooms-2000")]),
    "servers": ("servers, 200 rooms of 5", [("1", "rooms"), ("2", "servers-2"), ("3", "servers-3")]),
}
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
    sections += [overload(results), memory(results)]
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

    def median(self, peer, scenario, key):
        runs = self.runs.get((peer.name, scenario))
        return statistics.median(run[key] for run in runs) if runs else None

    def column(self, scenario, key, peers=None, factor=1):
        values = [self.median(peer, scenario, key) for peer in peers or self.peers]
        return [None if value is None else value * factor for value in values]

    def has(self, *scenarios):
        return all(any(scenario == name for _, name in self.runs) for scenario in scenarios)


def about(results):
    runs = max(len(runs) for runs in results.runs.values())
    seconds = max(row["seconds"] for row in results.rows)
    others = statistics.mean(row["other_share"] for row in results.rows if row["sent"])
    wrong = {key: sum(row[key] for row in results.rows) for key in ("lost", "doubled", "reordered")}
    order = "Nothing was lost, doubled or reordered in any run."
    if any(wrong.values()):
        counts = ", ".join(f"{number:,} {key}" for key, number in wrong.items())
        order = f"Of all messages: {counts}, by {', '.join(losers(results))}."
    times = "those of single runs" if runs == 1 else f"medians of {runs} alternating runs"
    times += fewer(results, runs)
    figures = (
        f"The figures are {times} of {seconds:g} seconds; other processes took {others:.2f} of the"
        f" {os.cpu_count()} cores on average at the same time. {order}"
    )
    return "\n\n".join(textwrap.fill(paragraph, 100) for paragraph in (versions(), figures))


def fewer(results, most):
    """Of whom, and in which scenarios, there are fewer runs."""

    def short(which):
        names = dict.fromkeys(key[which] for key in results.runs)
        counts = {name: max(len(runs) for key, runs in results.runs.items() if key[which] == name) for name in names}
        return [name for name, count in counts.items() if count < most]

    peers, scenarios = short(0), short(1)
    of = f" of {', '.join(peers)}" if peers else ""
    where = f" in {', '.join(scenarios)}" if scenarios else ""
    return f" (fewer{of}{' and' if of and where else ''}{where})" if of or where else ""


def losers(results):
    faulty = {row["peer"] for row in results.rows if row["lost"] or row["doubled"] or row["reordered"]}
    return [peer.name for peer in results.peers if peer.name in faulty]


def versions():
    npm = json.loads((NODE / "package.json").read_text())["dependencies"]
    axum = re.search(r'axum = \{ version = "=([\d.]+)"', (AXUM / "Cargo.toml").read_text())[1]
    known = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    model = known[1].strip() if known else platform.machine()
    node, redis = first_number("node", "--version"), first_number("redis-server", "--version")
    return (
        f"uWebSockets.js (npm `uwebsockets` {npm['uwebsockets']}), `ws` {npm['ws']}, Socket.IO"
        f" {npm['socket.io']} with its Redis adapter {npm['@socket.io/redis-adapter']}, on Node"
        f" {node} with `redis` {npm['redis']}; axum {axum} with a broadcast channel per room;"
        f" chat-server {first_number(SERVER, '--version')}; Redis {redis}; Linux"
        f" {platform.release().split('-')[0]}, {os.cpu_count()} cores, {model}."
    )


def first_number(*command):
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+(\.\d+)+", told)[0]


def cpu(results):
    panels = [("one in flight", "one"), ("16 in flight", "batch"), ("200 rooms of 5", "rooms")]
    if not results.has(*(name for _, name in panels)):
        return None
    key = "cpu_us_per_delivery"
    columns = [(heading, results.column(name, key), number) for heading, name in panels]
    redis = results.column("rooms", "broker_us_per_delivery")
    redis = [value if peer.has_broker else None for peer, value in zip(results.peers, redis)]
    save("cpu", results, [(heading, "µs per delivery", *rest) for heading, *rest in columns])
    return section(
        "CPU per delivery",
        "CPU of the server per delivered message, µs; the last column is Redis' own in `rooms`.",
        table(results.peers, [*columns, ("Redis, 200 rooms", redis, number)]),
        "cpu",
    )


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
        table(results.peers, columns),
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
    save_lines("latency", title, "percentile", "milliseconds", ticks, series)
    return section("Latency", "From send to arrival in `rate`, ms.", table(results.peers, columns), "latency")


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
        table(results.peers, columns),
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
        table(results.peers, columns),
        "memory",
    )


def growth(results, name):
    what, steps = GROWTH[name]
    if not results.has(*(scenario for _, scenario in steps)):
        return None
    peers = [peer for peer in results.peers if peer.grows and (peer.has_broker or name != "servers")]
    key = "cpu_us_per_delivery"
    columns = [(step, results.column(scenario, key, peers), number) for step, scenario in steps]
    series = []
    for index, peer in enumerate(peers):
        series.append((peer.name, peer.color, [values[index] for _, values, _ in columns]))
    ticks = [step for step, _ in steps]
    save_lines(name, f"CPU per delivery and {what}", what, "CPU, µs per delivery", ticks, series)
    text = "CPU of all servers per delivered message, µs."
    return section(f"Growth: {what}", text, table(peers, columns), name)


def save(name, results, panels):
    series = [(peer.name, peer.color) for peer in results.peers]
    title = f"{name}: " + ", ".join(heading for heading, *_ in panels)
    (PLOTS / f"{name}.svg").write_text(plot.bars(title, series, panels))


def save_lines(name, *args, **options):
    (PLOTS / f"{name}.svg").write_text(plot.lines(*args, **options))


def section(heading, text, lines, picture=None):
    shown = f"\n\n![{heading}](performance/{picture}.svg)" if picture else ""
    return f"### {heading}\n\n{text}\n\n{lines}{shown}"


def table(peers, columns):
    lines = ["| | " + " | ".join(heading for heading, *_ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for index, peer in enumerate(peers):
        cells = ["–" if values[index] is None else form(values[index]) for _, values, form in columns]
        lines.append(f"| {peer.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value):
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def whole(value):
    return f"{value:,.0f}"


def thousands(value):
    return f"{value:,.0f} k"
