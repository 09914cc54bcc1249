//! The counters of a server.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use chat_broker::Histogram;
use chat_core::{CloseReason, ErrorCode};
use chat_transport::End;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::cause::{Cause, close_code};
use crate::limits::Wait;
use crate::refusal::Refusal;

#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    received_frames: Counter,
    received_bytes: Counter,
    published: Counter,
    publish_failures: Counter,
    opened: Counter,
    rejected: Family<CodeLabel, Counter>,
    closed: Family<CloseLabel, Counter>,
    limited: Family<LimitLabel, Counter>,
    refused: Family<RefusalLabels, Counter>,
    hooks: Family<HookLabels, Counter>,
    api_requests: ApiRequests,
    panics: Counter,
    /// The sum of `refused` over its labels.
    pub(crate) handshakes_refused: Arc<AtomicU64>,
    /// Reports of dropped direct messages that were lost because their queue was full.
    pub(crate) lost_reports: Counter,
    /// From the client's frame to the broker's answer.
    pub(crate) publishing: Arc<Histogram>,
    /// From the question to a hook to its decision, or to the timeout.
    pub(crate) deciding: Arc<Histogram>,
}

/// Counts as the close code of a client's own choice.
const BY_CLIENT: u16 = 0;

/// Limits that are neither rates nor causes of an end, as metrics name them.
const LIMITS: [&str; 15] = [
    "address_connections",
    "api_key",
    "connections",
    "early_retry",
    "handshake_timeout",
    "head_size",
    "host",
    "http_connections",
    "http_rate",
    "response_timeout",
    "room_requests",
    "rooms",
    "sanctions",
    "token",
    "user_rooms",
];

/// Every limit, as metrics name it.
fn all_limits() -> impl Iterator<Item = &'static str> {
    let of_causes = Cause::ALL.into_iter().filter_map(Cause::limit);
    LIMITS.into_iter().chain(Wait::limits()).chain(of_causes)
}

/// What handshakes are refused for.
pub(crate) const REFUSALS: [(u16, &str); 20] = [
    (400, "bad_field"),
    (400, "http_version"),
    (400, "invalid_host"),
    (400, "key"),
    (400, "malformed"),
    (400, "room_name_invalid"),
    (401, "unauthorized"),
    (403, "banned"),
    (403, "forbidden"),
    (403, "foreign_host"),
    (403, "foreign_origin"),
    (405, "method"),
    (413, "body_too_large"),
    (426, "no_upgrade"),
    (426, "no_websocket"),
    (426, "version"),
    (429, "address_connections"),
    (503, "broker_unavailable"),
    (503, "connections"),
    (503, "draining"),
];

const HOOKS: [&str; 3] = ["before_join", "before_send", "before_direct"];

const HOOK_OUTCOMES: [&str; 6] =
    ["allowed", "changed", "denied", "unavailable", "timeout", "panicked"];

/// The statuses of calls whose counters exist from the start: those that alarms are about. Others appear
/// when they are first counted: all statuses of all calls would be a page of their own.
const API_STATUSES: [u16; 4] = [200, 403, 429, 503];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    status: u16,
    reason: &'static str,
}

/// As many as there are keys, calls and statuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ApiLabels {
    key: String,
    call: &'static str,
    status: u16,
}

/// The counters of calls. A [`Family`] does not list its labels, and those of a key that was removed must
/// be found.
#[derive(Debug, Clone, Default)]
struct ApiRequests(Arc<Mutex<BTreeMap<ApiLabels, u64>>>);

impl EncodeMetric for ApiRequests {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, count) in &*self.0.lock() {
            ConstCounter::new(*count).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
    outcome: &'static str,
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
    /// All counters at 0, those with labels too: Prometheus takes the first value of a series for no
    /// increase, so a counter that appears with its first burst hides that.
    pub(crate) fn new(has_hooks: bool) -> Self {
        let metrics = Self::default();
        for code in ErrorCode::ALL {
            begin(&metrics.rejected, CodeLabel { code: code.as_str() });
        }
        let codes = CloseReason::ALL.iter().map(|reason| reason.code());
        for code in codes.chain([BY_CLIENT, 1005, 1006]) {
            begin(&metrics.closed, CloseLabel { code });
        }
        for limit in all_limits() {
            begin(&metrics.limited, LimitLabel { limit });
        }
        for (status, reason) in REFUSALS {
            begin(&metrics.refused, RefusalLabels { status, reason });
        }
        for hook in HOOKS.into_iter().filter(|_| has_hooks) {
            for outcome in HOOK_OUTCOMES {
                begin(&metrics.hooks, HookLabels { hook, outcome });
            }
        }
        metrics
    }

    /// Begins the counters of a call that a key may make.
    pub(crate) fn expect_api_request(&self, key: &str, call: &'static str) {
        for status in API_STATUSES {
            let labels = ApiLabels { key: key.to_owned(), call, status };
            self.api_requests.0.lock().entry(labels).or_default();
        }
    }

    /// Removes the counters of the calls of other keys than these, which the server has no longer.
    pub(crate) fn keep_api_requests(&self, is_of_server: impl Fn(&str) -> bool) {
        self.api_requests.0.lock().retain(|labels, _| is_of_server(&labels.key));
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_frames.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn published(&self) {
        self.published.inc();
    }

    /// Counts a message that the broker did not take, or of which that is unknown.
    pub(crate) fn not_published(&self) {
        self.publish_failures.inc();
    }

    /// Counts a connection of a client.
    pub(crate) fn opened(&self) {
        self.opened.inc();
    }

    /// The messages passed to the broker, without those that it is known not to have taken.
    pub(crate) fn messages(&self) -> u64 {
        // Read before: a message counts as published first.
        let failures = self.publish_failures.get();
        self.published.get().saturating_sub(failures)
    }

    pub(crate) fn rejected(&self, code: ErrorCode) {
        self.rejected.get_or_create(&CodeLabel { code: code.as_str() }).inc();
    }

    /// Counts a client that reached a limit.
    pub(crate) fn limited(&self, limit: &'static str) {
        let label = LimitLabel { limit };
        debug_assert!(self.limited.get(&label).is_some(), "{limit} has no 0");
        self.limited.get_or_create(&label).inc();
    }

    /// How often each limit was reached.
    pub(crate) fn limits_reached(&self) -> BTreeMap<&'static str, u64> {
        let count = |limit| self.limited.get(&LimitLabel { limit }).map_or(0, |count| count.get());
        all_limits().map(|limit| (limit, count(limit))).collect()
    }

    /// Counts a rejected handshake.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let labels = RefusalLabels { status: refusal.status.as_u16(), reason: refusal.reason };
        debug_assert!(REFUSALS.contains(&(labels.status, labels.reason)), "{labels:?} has no 0");
        self.refused.get_or_create(&labels).inc();
        self.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a question to a hook.
    pub(crate) fn hook_decided(&self, hook: &'static str, outcome: &'static str, time: Duration) {
        self.hooks.get_or_create(&HookLabels { hook, outcome }).inc();
        self.deciding.observe(time);
    }

    /// Counts an answered call of the API.
    pub(crate) fn api_request(&self, key: &str, call: &'static str, status: StatusCode) {
        let labels = ApiLabels { key: key.to_owned(), call, status: status.as_u16() };
        *self.api_requests.0.lock().entry(labels).or_default() += 1;
    }

    /// Counts a panic of the task of a connection.
    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    /// Records the time from a message's frame to the broker's answer.
    pub(crate) fn answered(&self, time: Duration) {
        self.publishing.observe(time);
    }

    /// Counts a closed connection.
    pub(crate) fn closed(&self, end: &End, cause: Cause) {
        if let Some(limit) = cause.limit() {
            self.limited(limit);
        }
        let code = match end {
            // Any other code of a client would read as one that this server sent.
            End::ByPeer { code: Some(code), .. } if !matches!(code, 1000 | 1001) => BY_CLIENT,
            end => close_code(end),
        };
        self.closed.get_or_create(&CloseLabel { code }).inc();
    }

    /// Registers the counters on the metrics page.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let (frames, bytes) = (self.received_frames.clone(), self.received_bytes.clone());
        registry.register("received_frames", "Text frames from clients", frames);
        registry.register("received_bytes", "Bytes of text from clients", bytes);
        registry.register("published", "Messages handed to the broker", self.published.clone());
        let failures = self.publish_failures.clone();
        registry.register("publish_failures", "Messages that the broker did not take", failures);
        registry.register("opened", "Connections opened", self.opened.clone());
        registry.register("rejected", "Frames refused, by error code", self.rejected.clone());
        let (limited, refused) = (self.limited.clone(), self.refused.clone());
        registry.register("limited", "Times that a limit applied to a client, by limit", limited);
        registry.register(
            "refused_handshakes",
            "Handshakes refused, by status and reason",
            refused,
        );
        let help = "Calls of the API, by key, call and status";
        registry.register("api_requests", help, self.api_requests.clone());
        let help = "Reports of dropped direct messages that were lost";
        registry.register("undelivered_lost", help, self.lost_reports.clone());
        let help = "Questions to hooks, by hook and outcome";
        registry.register("hooks", help, self.hooks.clone());
        registry.register("panics", "Connections whose task panicked", self.panics.clone());
        registry.register(
            "closed",
            "Connections ended, by close code; 0: by a client, with a code other than 1000 and 1001; \
             1005: by a client, with no code; 1006: lost",
            self.closed.clone(),
        );
    }
}

/// Makes a counter exist.
fn begin<L: Clone + Eq + Hash>(family: &Family<L, Counter>, labels: L) {
    drop(family.get_or_create(&labels));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/operating.md");

    /// The table of all limits in docs/operating.md has each, as `limit=` has it.
    #[test]
    fn every_limit_is_documented_and_counted_from_the_start() {
        let (_, limits) = PAGE.split_once("### All limits").unwrap();
        let limits = limits.split("\n## ").next().unwrap();
        let metrics = Metrics::new(false);
        for limit in all_limits() {
            assert!(metrics.limited.get(&LimitLabel { limit }).is_some(), "{limit} has no 0");
            assert!(limits.contains(&format!("`{limit}`")), "{limit}");
        }
    }

    /// An operator looks up what an alarm or a plot names.
    #[test]
    fn every_refusal_and_outcome_of_a_hook_is_documented() {
        let refusals = REFUSALS.into_iter().map(|(_, reason)| reason);
        let labels = refusals.chain(HOOKS).chain(HOOK_OUTCOMES);
        let missing: Vec<_> =
            labels.filter(|label| !PAGE.contains(&format!("`{label}`"))).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
