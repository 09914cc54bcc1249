//! The metrics page for Prometheus: counters, and gauges that are read for each scrape.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chat_broker::{BrokerStats, CommandRefusals, Hub, Latencies, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

use crate::api;
use crate::built::COMMIT;
use crate::member::Member;
use crate::process::Process;
use crate::state::State;

/// The metrics in the OpenMetrics text format.
pub(crate) fn render(state: &Arc<State>) -> Result<String, fmt::Error> {
    // At each scrape: keys may have been added and removed since the last one. A call that was under way
    // when its key was removed is counted after that.
    api::expect_requests(state);
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("chat");
    state.metrics.register(ours);
    ours.register_collector(Box::new(Live(Arc::clone(state))));
    registry.register_collector(Box::new(OfProcess { server_started: since_1970(state.started) }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// A page in Prometheus' own text format (0.0.4): there, the name of a counter ends in `_total` also
/// where it is described.
pub(crate) fn to_plain(page: &str) -> String {
    let mut plain = String::with_capacity(page.len());
    let mut help = "";
    for line in page.lines() {
        let described = |word: &str| line.strip_prefix(word)?.split_once(' ');
        if let Some((_, text)) = described("# HELP ") {
            help = text;
        } else if let Some((name, kind)) = described("# TYPE ") {
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            plain += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        } else if !line.starts_with('#') {
            plain += line;
            plain.push('\n');
        }
    }
    plain
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Metrics of the process, read at each scrape.
#[derive(Debug)]
struct OfProcess {
    /// Since 1970.
    server_started: Duration,
}

impl Collector for OfProcess {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, process) = (Page(encoder), Process::read());
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", process.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes),
            ("process_open_fds", "Open files", process.open_files),
            ("process_max_fds", "The most open files", process.max_files),
        ] {
            value.map_or(Ok(()), |value| page.bytes(name, help, value))?;
        }
        if let Some(cpu) = process.cpu {
            let cpu = ConstCounter::new(cpu.as_secs_f64());
            page.metric("process_cpu_seconds", "CPU time of all threads", &cpu)?;
        }
        let help = "When the process started, since 1970";
        let started = process.started.unwrap_or(self.server_started);
        page.seconds("process_start_time_seconds", help, started)
    }
}

/// Metrics that are read at each scrape.
#[derive(Debug)]
struct Live(Arc<State>);

impl Collector for Live {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (state, mut page) = (&self.0, Page(encoder));
        about(&mut page, state)?;
        sessions(&mut page, state)?;
        let publishing = state.metrics.publishing.snapshot();
        let help = "From reading a message of a client to the broker's answer";
        page.histogram("publish_seconds", help, &publishing)?;
        if state.hooks.is_some() {
            let deciding = state.metrics.deciding.snapshot();
            let help = "From the question to a hook to its decision";
            page.histogram("hook_seconds", help, &deciding)?;
        }
        key_fetches(&mut page, state)?;
        keys(&mut page, state)?;
        key_ends(&mut page, state)?;
        hub(&mut page, &state.hub)?;
        let broker = state.hub.broker();
        if let Ok(runtime) = Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            page.gauge("tasks", "Tasks of the runtime", tasks)?;
        }
        page.gauge("ready", "Whether clients should be sent here", state.is_ready().into())?;
        page.gauge("draining", "Whether the server shuts down", state.is_draining().into())?;
        let is_up = broker.status() == Status::Ready;
        page.gauge("broker_up", "Whether the broker takes messages", is_up.into())?;
        from_broker(&mut page, &broker.stats())
    }
}

fn about(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let version = ("version", env!("CARGO_PKG_VERSION"));
    let commit = ("commit", COMMIT);
    let node = ("node", &*state.node);
    page.info("build_info", "What the program was built from", &[version, commit, node])?;
    let digest = ("digest", &**state.settings_digest.read());
    page.info("settings_info", "The digest of the settings in effect", &[digest])?;
    let reload = *state.latest_reload.read();
    let help = "Whether the latest reload of the settings succeeded; 1 before the first";
    page.gauge("settings_reload_successful", help, reload.is_successful.into())?;
    let help = "Whether settings were changed and read that count from the next start on";
    page.gauge("settings_need_restart", help, reload.needs_restart.into())?;
    let help = "When the settings in effect were read, since 1970";
    page.seconds("settings_reload_timestamp_seconds", help, since_1970(reload.in_effect_since))
}

fn sessions(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let outboxes = &state.outboxes;
    page.gauge("connections", "Open connections", state.sessions.len())?;
    page.counter("sent_bytes", "Bytes for clients", outboxes.sent_bytes())?;
    page.gauge("outbox_bytes", "Bytes that wait for clients to read", outboxes.waiting_bytes())?;
    let help = "The most that waited for one client in the last half minute";
    page.gauge("outbox_bytes_max", help, outboxes.peak_bytes(Instant::now()))
}

fn key_fetches(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let authenticator = state.authenticator.as_ref();
    let Some(fetches) = authenticator.and_then(|authenticator| authenticator.key_fetches()) else {
        return Ok(());
    };
    let outcomes = [("ok", fetches.succeeded), ("failed", fetches.failed)];
    let counters = outcomes.map(|(name, count)| ([("outcome", name)], ConstCounter::new(count)));
    let (help, counters) = ("Fetches of the keys of tokens", counters.into_iter());
    page.family("key_fetches", help, MetricType::Counter, counters)?;
    let help = "Time since the keys of tokens were last fetched, or since the start";
    // Without a value until the first fetch, no alarm would see a server that never had keys.
    let age = fetches.age.unwrap_or_else(|| state.started.elapsed().unwrap_or_default());
    page.seconds("key_age_seconds", help, age)
}

fn keys(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let authenticator = state.authenticator.as_ref();
    if let Some(keys) = authenticator.and_then(|authenticator| authenticator.key_set()) {
        page.gauge("token_keys", "Keys of tokens in effect", keys.count)?;
        let help = "The digest of the keys of tokens in effect";
        page.info("token_keys_info", help, &[("digest", &keys.digest)])?;
    }
    let now = SystemTime::now();
    let api_keys = state.api_keys.all();
    let in_effect = api_keys.iter().filter(|key| key.ends_at().is_none_or(|end| now < end));
    page.gauge("api_keys", "Keys of backends in effect", in_effect.count())
}

fn key_ends(page: &mut Page<'_>, state: &State) -> fmt::Result {
    let tokens = state.authenticator.as_ref().map(|authenticator| authenticator.key_ends());
    let tokens = tokens.unwrap_or_default();
    let of_tokens =
        [("next", tokens.next), ("last", tokens.last)].map(|(key, end)| ("tokens", key, end));
    let api_keys = state.api_keys.all();
    let of_api = api_keys.iter().map(|key| ("api", key.name(), key.ends_at()));
    let ends = of_tokens.into_iter().chain(of_api).filter_map(|(kind, key, end)| {
        Some(([("kind", kind), ("key", key)], ConstGauge::new(since_1970(end?).as_secs_f64())))
    });
    let mut ends = ends.peekable();
    if ends.peek().is_none() {
        return Ok(());
    }
    let help = "When keys end, since 1970: of tokens that which ends next and that which ends last";
    page.family("key_end_timestamp_seconds", help, MetricType::Gauge, ends)
}

fn hub(page: &mut Page<'_>, hub: &Hub<Member>) -> fmt::Result {
    let (topics, rooms, stats) = (hub.topics(), hub.rooms(), hub.stats());
    page.gauge("topics", "Rooms and users with members here", topics)?;
    page.gauge("rooms", "Rooms with members here", rooms)?;
    page.counter("broker_received", "Publications received from the broker", stats.received)?;
    page.counter("deliveries", "Batches handed to members", stats.deliveries)?;
    let help = "Connections closed for reading too slowly";
    page.counter("slow_consumers", help, stats.slow_consumers)?;
    let help = "Times that a follower was too slow and went on with the history";
    page.counter("slow_followers", help, stats.slow_followers)?;
    let help = "Batches of direct messages dropped because an outbox was full";
    page.counter("direct_dropped", help, stats.dropped)?;
    let help = "Messages missed and read from the history unnoticed";
    page.counter("repaired", help, stats.repaired)?;
    page.counter("gaps", "Gaps reported to rooms", stats.gaps)?;
    page.counter("repeats", "Publications dropped because the room had them", stats.repeats)?;
    let help = "From a room's first event of a batch to its last write or queue";
    page.histogram("fan_out_seconds", help, &stats.fan_out)?;
    let help = "The longest time that a room was known to miss messages";
    page.seconds("longest_repair_seconds", help, stats.longest_repair)?;
    let help = "Messages held in memory for joins";
    page.gauge("recent_bytes", help, stats.recent_bytes)
}

fn from_broker(page: &mut Page<'_>, stats: &BrokerStats) -> fmt::Result {
    let help = "Answers of the broker to one pipeline";
    page.histogram("broker_round_trip_seconds", help, &stats.round_trips)?;
    page.counter("broker_reconnects", "Connections reopened after a loss", stats.reconnects)?;
    let help = "Publications dropped because this server was too slow";
    page.counter("broker_dropped", help, stats.dropped)?;
    let help = "Messages in the broker that no server can have written";
    page.counter("broker_unreadable", help, stats.unreadable)?;
    let help = "Messages that wait for the broker's answer";
    page.gauge("broker_queued", help, stats.publish_queued)?;
    refusals(page, &stats.refusals)?;
    let help =
        "Whether the broker has no memory for the messages that rooms keep, and refuses them";
    page.gauge("broker_full", help, stats.full.into())?;
    if let Some(run_id) = &stats.run_id {
        let help = "The process of Redis (run_id) that this server is connected to";
        page.info("redis_info", help, &[("run_id", run_id)])?;
    }
    // 0 without Redis, and without the permission to read it.
    if stats.memory_used == 0 {
        return Ok(());
    }
    let help = "Memory that Redis uses (used_memory)";
    page.bytes("redis_memory_used_bytes", help, stats.memory_used)?;
    let help = "The most that it may use (maxmemory); 0: no limit";
    page.bytes("redis_memory_max_bytes", help, stats.memory_max)
}

fn refusals(page: &mut Page<'_>, refusals: &[CommandRefusals]) -> fmt::Result {
    let counters = refusals.iter().map(|each| {
        let labels = [("command", each.command), ("cause", each.cause)];
        (labels, ConstCounter::new(each.count))
    });
    let help = "Commands that the broker answered with an error";
    page.family("broker_refused", help, MetricType::Counter, counters)
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.metric(name, help, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(value as i64))
    }

    fn bytes(&mut self, name: &str, help: &str, bytes: u64) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)))
    }

    fn seconds(&mut self, name: &str, help: &str, time: Duration) -> fmt::Result {
        self.metric(name, help, &ConstGauge::new(time.as_secs_f64()))
    }

    /// A gauge that is always 1, for its labels.
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = encoder.encode_family(&labels)?;
        ConstGauge::new(1_i64).encode(labels)
    }

    fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(encoder)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        metrics: impl Iterator<Item = (impl EncodeLabelSet, impl EncodeMetric)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in metrics {
            metric.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, latencies: &Latencies) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let buckets: Vec<_> = latencies.buckets().collect();
        let sum = latencies.sum().as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, latencies.count(), &buckets, None)
    }
}
