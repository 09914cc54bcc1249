//! What a server counts.

use chat_core::ErrorCode;
use chat_transport::End;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

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

    /// Puts the counters on the page that Prometheus reads.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let (frames, bytes) = (self.received_frames.clone(), self.received_bytes.clone());
        registry.register("received_frames", "Text frames from clients", frames);
        registry.register("received_bytes", "Bytes of text from clients", bytes);
        registry.register("published", "Messages handed to the broker", self.published.clone());
        registry.register("rejected", "Frames refused, by error code", self.rejected.clone());
        registry.register(
            "closed",
            "Connections ended, by close code; 0: a code of the client's own, 1006: none",
            self.closed.clone(),
        );
    }
}
