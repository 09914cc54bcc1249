//! What an operator asks of a server, as Prometheus reads it.

use std::fmt;
use std::sync::Arc;

use chat_broker::{Hub, Status};
use chat_core::ErrorCode;
use chat_transport::End;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::member::Member;
use crate::state::State;

#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    received_frames: Counter,
    received_bytes: Counter,
    published: Counter,
    rejected: Family<CodeLabel, Counter>,
    closed: Family<CloseLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabel {
    code: u16,
}

impl Metrics {
    pub(crate) fn received(&self, bytes: usize) {
        self.received_frames.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn published(&self) {
        self.published.inc();
    }

    pub(crate) fn rejected(&self, code: ErrorCode) {
        self.rejected.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    /// A connection has ended.
    pub(crate) fn closed(&self, end: &End) {
        let code = match end {
            End::Local(reason) => reason.code(),
            // Codes that clients make up count as one: they must not make labels.
            End::ByPeer { code: Some(code), .. } if !(1000..=1015).contains(code) => 0,
            End::ByPeer { code, .. } => code.unwrap_or(1005),
            _ => 1006,
        };
        self.closed.get_or_create(&CloseLabel { code }).inc();
    }
}

/// The page that Prometheus reads.
pub(crate) fn render(state: &Arc<State>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("chat");
    let metrics = &state.metrics;
    registry.register("received_frames", "Text frames from clients", metrics.received_frames.clone());
    registry.register("received_bytes", "Bytes of text from clients", metrics.received_bytes.clone());
    registry.register("published", "Messages handed to the broker", metrics.published.clone());
    registry.register("rejected", "Frames refused, by error code", metrics.rejected.clone());
    registry.register(
        "closed",
        "Connections ended, by close code; 0: a code of the client's own, 1006: none",
        metrics.closed.clone(),
    );
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
        let mut gauge = |name, help, value: i64| metric(&mut encoder, name, help, &ConstGauge::new(value));
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
    counter("gaps", "Gaps that rooms were told of", stats.gaps)?;
    counter("repeats", "Publications dropped because the room had them", stats.repeats)
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
