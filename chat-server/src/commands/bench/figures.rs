//! What was sent and what has arrived.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use chat_core::printable;
use chat_transport::client::ClientError;
use serde::Serialize;
use serde_json::json;

use super::super::json_text;
use super::histogram::Histogram;
use super::window::{Arrival, Window};

/// The counts of a run, kept by one thread.
pub(super) struct Figures {
    pub(super) joined_in: Duration,
    clients: usize,
    rooms: usize,
    /// By their numbers.
    messages: Vec<Message>,
    /// How many messages each client has sent.
    sequences: Vec<u32>,
    /// What each client has received of each sender.
    windows: Vec<HashMap<usize, Window>>,
    latency_ns: Histogram,
    unanswered: u64,
    /// Deliveries of accepted messages that have not arrived.
    missing: u64,
    accepted: u64,
    delivered: u64,
    doubled: u64,
    reordered: u64,
    disconnects: u64,
    gaps: u64,
    /// Messages that were not accepted, by the error.
    failures: BTreeMap<String, u64>,
}

struct Message {
    missing: u64,
    is_accepted: bool,
}

/// What the text of a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u32,
    pub(super) sender: usize,
    /// The number of the message among those of its sender, from 1 on.
    pub(super) sequence: u32,
    /// Since the start of the run.
    pub(super) sent_ns: u64,
}

impl Figures {
    pub(super) fn new(clients: usize, rooms: usize) -> Self {
        Self {
            joined_in: Duration::ZERO,
            clients,
            rooms,
            messages: Vec::new(),
            sequences: vec![0; clients],
            windows: vec![HashMap::new(); clients],
            latency_ns: Histogram::new(),
            unanswered: 0,
            missing: 0,
            accepted: 0,
            delivered: 0,
            doubled: 0,
            reordered: 0,
            disconnects: 0,
            gaps: 0,
            failures: BTreeMap::new(),
        }
    }

    /// The next message, which `members` clients are to receive. Returns its mark, but for the time.
    pub(super) fn sending(&mut self, sender: usize, members: usize) -> Mark {
        let number = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.messages.push(Message { missing: members as u64, is_accepted: false });
        self.sequences[sender] += 1;
        self.unanswered += 1;
        Mark { number, sender, sequence: self.sequences[sender], sent_ns: 0 }
    }

    pub(super) fn answered(&mut self, number: u32, outcome: Result<(), ClientError>) {
        self.unanswered -= 1;
        match outcome {
            Ok(()) => {
                let message = &mut self.messages[number as usize];
                message.is_accepted = true;
                self.accepted += 1;
                self.missing += message.missing;
            }
            Err(error) => *self.failures.entry(error.to_string()).or_default() += 1,
        }
    }

    /// The client with the index `receiver` has received a message of this run.
    pub(super) fn arrived(&mut self, receiver: usize, mark: Mark, now_ns: u64) {
        let Some(message) = self.messages.get_mut(mark.number as usize) else { return };
        match self.windows[receiver].entry(mark.sender).or_default().note(mark.sequence) {
            Arrival::Doubled => {
                self.doubled += 1;
                return;
            }
            Arrival::Reordered => self.reordered += 1,
            Arrival::InOrder => {}
        }
        message.missing = message.missing.saturating_sub(1);
        if message.is_accepted {
            self.missing = self.missing.saturating_sub(1);
        }
        self.delivered += 1;
        self.latency_ns.record(now_ns.saturating_sub(mark.sent_ns));
    }

    pub(super) fn disconnected(&mut self) {
        self.disconnects += 1;
    }

    pub(super) fn missed_messages(&mut self) {
        self.gaps += 1;
    }

    /// Whether each message is answered, and each accepted one has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.unanswered == 0 && self.missing == 0
    }

    pub(super) fn progress(&self, time: Duration) -> String {
        let [p50, p99] = [0.5, 0.99].map(|share| self.quantile_ms(share));
        format!(
            "{} s: {} sent, {} delivered, p50 {p50:.2} ms, p99 {p99:.2} ms",
            time.as_secs(),
            self.accepted,
            self.delivered
        )
    }

    pub(super) fn report(&self, sending: Duration) -> Report {
        let mut failures = self.failures.clone();
        if self.unanswered > 0 {
            *failures.entry(ClientError::Timeout.to_string()).or_default() += self.unanswered;
        }
        Report {
            clients: self.clients,
            rooms: self.rooms,
            joined_ms: milliseconds(self.joined_in.as_nanos() as u64),
            seconds: sending.as_secs_f64(),
            sent: self.accepted,
            failed: failures.values().sum(),
            failures,
            delivered: self.delivered,
            lost: self.missing,
            doubled: self.doubled,
            reordered: self.reordered,
            disconnects: self.disconnects,
            gaps: self.gaps,
            latency_ms: Latency {
                p50: self.quantile_ms(0.5),
                p90: self.quantile_ms(0.9),
                p99: self.quantile_ms(0.99),
                p999: self.quantile_ms(0.999),
                max: milliseconds(self.latency_ns.max()),
            },
        }
    }

    fn quantile_ms(&self, share: f64) -> f64 {
        milliseconds(self.latency_ns.quantile(share))
    }
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The outcome of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    clients: usize,
    rooms: usize,
    joined_ms: f64,
    seconds: f64,
    /// Messages that the server accepted.
    sent: u64,
    /// Those that it did not accept, or not in time.
    failed: u64,
    failures: BTreeMap<String, u64>,
    delivered: u64,
    lost: u64,
    doubled: u64,
    reordered: u64,
    disconnects: u64,
    gaps: u64,
    /// From a call to send a message to its arrival at a client.
    latency_ms: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Report {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.reordered == 0
    }

    pub(super) fn json(&self) -> String {
        json_text(&json!(self))
    }

    pub(super) fn text(&self) -> String {
        let Self { clients, rooms, joined_ms, seconds, sent, failed, delivered, .. } = self;
        let Self { lost, doubled, reordered, disconnects, gaps, .. } = self;
        let Latency { p50, p90, p99, p999, max } = self.latency_ms;
        let per_second = |count: u64| count as f64 / seconds.max(0.001);
        let mut text = format!(
            "clients    {clients} in {rooms} rooms, joined in {joined_ms:.0} ms\n\
             sent       {sent} in {seconds:.1} s, {:.0} a second; {failed} failed\n\
             delivered  {delivered}, {:.0} a second\n\
             lost {lost}, doubled {doubled}, reordered {reordered}; disconnects {disconnects}, gaps {gaps}\n\
             latency    p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, \
             max {max:.2} ms",
            per_second(*sent),
            per_second(*delivered),
        );
        for (error, count) in &self.failures {
            let _ = write!(text, "\nfailed     {count}: {}", printable(error));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_do_not_arrive_are_lost_if_they_were_accepted() {
        let mut figures = Figures::new(2, 1);
        let [first, second] = [figures.sending(0, 2), figures.sending(1, 2)];
        figures.arrived(0, first, 5);
        figures.answered(first.number, Ok(()));
        assert!(!figures.is_complete());
        figures.answered(second.number, Err(ClientError::Timeout));
        let report = figures.report(Duration::from_secs(1));
        assert_eq!((report.sent, report.failed, report.delivered, report.lost), (1, 1, 1, 1));
        assert!(!report.is_clean());
        figures.arrived(1, first, 5);
        assert!(figures.is_complete() && figures.report(Duration::ZERO).is_clean());
        figures.arrived(1, first, 5);
        assert_eq!(figures.report(Duration::ZERO).doubled, 1);
    }
}
