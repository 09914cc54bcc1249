//! What was sent and what has arrived.

use std::collections::hash_map::Entry;
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
    /// Clients that have joined their rooms.
    pub(super) joined: usize,
    pub(super) joined_in: Duration,
    clients: usize,
    rooms: usize,
    /// Messages whose answer or arrivals are to come, by their numbers.
    open: HashMap<u32, Message>,
    /// The number of the next message.
    next: u32,
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

/// What the command does at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Joining,
    Sending,
    /// The load has ended. Messages are still to be answered or to arrive.
    Waiting,
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
            joined: 0,
            joined_in: Duration::ZERO,
            clients,
            rooms,
            open: HashMap::new(),
            next: 0,
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
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Message { missing: members as u64, is_accepted: false });
        self.sequences[sender] += 1;
        self.unanswered += 1;
        Mark { number, sender, sequence: self.sequences[sender], sent_ns: 0 }
    }

    pub(super) fn answered(&mut self, number: u32, outcome: Result<(), ClientError>) {
        self.unanswered -= 1;
        match outcome {
            Ok(()) => {
                self.accepted += 1;
                if let Entry::Occupied(mut open) = self.open.entry(number) {
                    let message = open.get_mut();
                    message.is_accepted = true;
                    self.missing += message.missing;
                    if message.missing == 0 {
                        open.remove();
                    }
                }
            }
            Err(error) => {
                self.open.remove(&number);
                *self.failures.entry(cause(&error)).or_default() += 1;
            }
        }
    }

    /// The client with the index `receiver` has received a message of this run.
    pub(super) fn arrived(&mut self, receiver: usize, mark: Mark, now_ns: u64) {
        match self.windows[receiver].entry(mark.sender).or_default().note(mark.sequence) {
            Arrival::Doubled => {
                self.doubled += 1;
                return;
            }
            Arrival::Reordered => self.reordered += 1,
            Arrival::InOrder => {}
        }
        self.delivered += 1;
        if let Entry::Occupied(mut open) = self.open.entry(mark.number) {
            let message = open.get_mut();
            message.missing = message.missing.saturating_sub(1);
            if message.is_accepted {
                self.missing = self.missing.saturating_sub(1);
                if message.missing == 0 {
                    open.remove();
                }
            }
        }
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

    /// Deliveries so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// One line, after so much time in this phase.
    pub(super) fn progress(&self, phase: Phase, time: Duration) -> String {
        match phase {
            Phase::Joining => format!("joining: {} of {} clients", self.joined, self.clients),
            Phase::Sending => {
                let [p50, p99] = [0.5, 0.99].map(|share| self.quantile_ms(share));
                format!(
                    "{} s: {} sent, {} delivered, p50 {p50:.2} ms, p99 {p99:.2} ms",
                    time.as_secs(),
                    self.accepted,
                    self.delivered
                )
            }
            Phase::Waiting => format!("waiting for {} of {} messages", self.open.len(), self.next),
        }
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
            not_arrived: self.missing,
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

/// Why a message failed. The queue of a client is full because of the server, or of the load.
fn cause(error: &ClientError) -> String {
    match error {
        ClientError::QueueFull => format!(
            "{error}: --rate asks for more than the server answers, which its limits bound unless it \
             has --limits off"
        ),
        error => error.to_string(),
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
    /// Deliveries of accepted messages that were not there when no more arrived.
    not_arrived: u64,
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
    /// Whether each message was accepted, and has arrived once and in order.
    pub(super) fn is_clean(&self) -> bool {
        [self.failed, self.not_arrived, self.doubled, self.reordered, self.gaps] == [0; 5]
    }

    pub(super) fn json(&self) -> String {
        json_text(&json!(self))
    }

    pub(super) fn text(&self) -> String {
        let Self { clients, rooms, joined_ms, seconds, sent, failed, delivered, .. } = self;
        let Self { not_arrived, doubled, reordered, disconnects, gaps, .. } = self;
        let Latency { p50, p90, p99, p999, max } = self.latency_ms;
        let per_second = |count: u64| count as f64 / seconds.max(0.001);
        let mut text = format!(
            "clients    {clients} in {rooms} rooms, joined in {joined_ms:.0} ms\n\
             sent       {sent} in {seconds:.1} s, {:.0} a second; {failed} failed\n\
             delivered  {delivered}, {:.0} a second\n\
             not arrived {not_arrived}, doubled {doubled}, reordered {reordered}; disconnects \
             {disconnects}, gaps {gaps}\n\
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
    fn accepted_messages_are_to_arrive() {
        let mut figures = Figures::new(2, 1);
        let [first, second] = [figures.sending(0, 2), figures.sending(1, 2)];
        figures.arrived(0, first, 5);
        figures.answered(first.number, Ok(()));
        assert!(!figures.is_complete());
        let report = figures.report(Duration::from_secs(1));
        assert_eq!((report.sent, report.delivered, report.not_arrived), (1, 1, 1));
        assert!(!report.is_clean());
        figures.arrived(1, first, 5);
        for client in [0, 1] {
            figures.arrived(client, second, 5);
        }
        figures.answered(second.number, Ok(()));
        assert!(figures.is_complete() && figures.report(Duration::ZERO).is_clean());
        assert!(figures.open.is_empty(), "complete messages are dropped");
        figures.arrived(1, first, 5);
        assert_eq!(figures.report(Duration::ZERO).doubled, 1);
    }

    #[test]
    fn progress_has_what_the_phase_waits_for() {
        let mut figures = Figures::new(3, 1);
        figures.joined = 2;
        let time = Duration::from_millis(1_900);
        assert_eq!(figures.progress(Phase::Joining, time), "joining: 2 of 3 clients");
        let [first, second, third] = [0, 1, 2].map(|sender| figures.sending(sender, 2));
        for client in [0, 1] {
            figures.arrived(client, first, 0);
        }
        figures.arrived(0, second, 0);
        figures.answered(first.number, Ok(()));
        figures.answered(second.number, Ok(()));
        let sending = "1 s: 2 sent, 3 delivered, p50 0.00 ms, p99 0.00 ms";
        assert_eq!(figures.progress(Phase::Sending, time), sending);
        let waiting = |figures: &Figures| figures.progress(Phase::Waiting, time);
        assert_eq!(waiting(&figures), "waiting for 2 of 3 messages", "one arrival, one answer");
        figures.answered(third.number, Err(ClientError::Timeout));
        assert_eq!(waiting(&figures), "waiting for 1 of 3 messages");
        figures.arrived(1, second, 0);
        assert_eq!(waiting(&figures), "waiting for 0 of 3 messages");
    }

    #[test]
    fn full_queue_names_the_rate_and_the_limits() {
        let mut figures = Figures::new(1, 1);
        let mark = figures.sending(0, 1);
        figures.answered(mark.number, Err(ClientError::QueueFull));
        let text = figures.report(Duration::ZERO).text();
        assert!(text.contains("requests are waiting: --rate asks for more"), "{text}");
    }

    #[test]
    fn refused_message_is_not_missing_and_not_clean() {
        let mut figures = Figures::new(1, 1);
        let mark = figures.sending(0, 1);
        figures.answered(mark.number, Err(ClientError::Timeout));
        let report = figures.report(Duration::ZERO);
        assert_eq!((report.failed, report.not_arrived, report.is_clean()), (1, 0, false));
        assert!(figures.is_complete() && figures.open.is_empty());
    }
}
