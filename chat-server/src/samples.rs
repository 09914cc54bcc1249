//! The figures of this server over the last ten minutes, for the page for operators: a page that is
//! opened because something is wrong shows what came before. Without an API key nothing can read them,
//! and nothing is kept.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use serde::Serialize;

/// The number of samples that are kept: ten minutes, 20 KB.
pub(crate) const KEPT: usize = 120;

/// The samples that are kept, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<VecDeque<Sample>>);

/// What a server did in 5 seconds. Rates are per second; a latency is that of 99 % in these seconds, as
/// the upper bound of its bucket in the metrics, and absent if there was none.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Sample {
    /// When the 5 seconds ended, in milliseconds since 1970.
    pub(crate) at: u64,
    /// Whether the server should receive clients.
    pub(crate) ready: bool,
    /// Whether the broker accepts messages.
    pub(crate) broker_up: bool,
    /// Whether the broker refuses messages of rooms with history, for lack of memory.
    pub(crate) broker_full: bool,
    pub(crate) connections: usize,
    /// Rooms with members on this server.
    pub(crate) rooms: usize,
    /// Bytes that wait for clients to read.
    pub(crate) outbox_bytes: usize,
    /// Memory that Redis uses; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    pub(crate) redis_memory_bytes: Option<u64>,
    /// Memory that Redis may use; absent if that is not known, or has no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    pub(crate) redis_memory_max_bytes: Option<u64>,
    #[serde(flatten)]
    pub(crate) rates: Rates,
    /// `limited` by the limit, as the label of `chat_limited_total`, for those that were reached; absent if
    /// there was none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(test, schema(value_type = std::collections::HashMap<String, f64>, required = false))]
    pub(crate) limits: BTreeMap<&'static str, f64>,
    /// From reading a message of a client to the broker's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    pub(crate) publish_ms: Option<f64>,
    /// From the first pending publication of a room to the last write of all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    pub(crate) fan_out_ms: Option<f64>,
    /// The answers of Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    pub(crate) round_trip_ms: Option<f64>,
}

/// Per second.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Rates {
    /// Messages passed to the broker, without those that it did not take.
    pub(crate) messages: f64,
    /// Batches delivered to members.
    pub(crate) deliveries: f64,
    /// Times that a client reached a limit.
    pub(crate) limited: f64,
    /// Handshakes that were refused.
    pub(crate) refused: f64,
    /// Gaps sent to rooms.
    pub(crate) gaps: f64,
}

impl Samples {
    pub(crate) fn add(&self, sample: Sample) {
        let mut samples = self.0.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Those that ended after a time, in milliseconds since 1970.
    pub(crate) fn after(&self, at: u64) -> Vec<Sample> {
        self.0.lock().iter().filter(|sample| sample.at > at).cloned().collect()
    }
}

/// A rate to a hundredth, as the API shows it.
pub(crate) fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}
