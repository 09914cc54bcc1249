//! The page that Prometheus reads: what was counted, and how things stand.

use std::fmt;
use std::sync::Arc;

use chat_broker::{Hub, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::member::Member;
use crate::state::State;

/// The page that Prometheus reads.
pub(crate) fn render(state: &Arc<State>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("chat");
    state.metrics.register(&mut registry);
    registry.register_collector(Box::new(Live(Arc::clone(state))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What is read at the moment of asking.
#[derive(Debug)]
struct Live(Arc<State>);

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = &self.0;
        let mut gauge =
            |name, help, value: i64| metric(&mut encoder, name, help, &ConstGauge::new(value));
        gauge("connections", "Open connections", state.sessions.len() as i64)?;
        gauge("topics", "Rooms and users with members here", state.hub.topics() as i64)?;
        gauge("ready", "Whether clients should be sent here", i64::from(state.is_ready()))?;
        let broker = state.hub.broker().status() == Status::Ready;
        gauge("broker_up", "Whether the broker answers", i64::from(broker))?;
        hub(&mut encoder, &state.hub)
    }
}

fn hub(encoder: &mut DescriptorEncoder<'_>, hub: &Hub<Member>) -> fmt::Result {
    let stats = hub.stats();
    let mut counter = |name, help, value| metric(encoder, name, help, &ConstCounter::new(value));
    counter("broker_received", "Publications that came from the broker", stats.received)?;
    counter("deliveries", "Batches handed to members", stats.deliveries)?;
    counter("slow_consumers", "Connections closed for reading too slowly", stats.slow_consumers)?;
    counter("repaired", "Messages missed and read from the history unnoticed", stats.repaired)?;
    counter("gaps", "Gaps that rooms were told of", stats.gaps)?;
    counter("repeats", "Publications dropped because the room had them", stats.repeats)?;
    let longest = ConstGauge::new(stats.longest_repair.as_secs_f64());
    let help = "The longest time that a room was known to miss messages";
    metric(encoder, "longest_repair_seconds", help, &longest)?;
    let held = ConstGauge::new(stats.recent_bytes as i64);
    metric(encoder, "recent_bytes", "Messages held in memory for newcomers", &held)
}

fn metric(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}
