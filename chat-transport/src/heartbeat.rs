//! When to ping a silent peer. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::HeartbeatConfig;
use crate::timer::{after, was_missed};

/// The slowest that a peer may read, in bytes a second. A peer that reads more slowly counts as
/// stalled as soon as the outbox fills: the kernel reports room in steps of a third of its buffer,
/// which takes such a peer as long as the [write timeout](crate::TransportConfig::write_timeout).
const MIN_READ_RATE: u64 = 8 * 1024;

/// The most bytes that a peer has to read before it reaches a ping: a full outbox, and what the
/// kernels of both sides hold. It bounds the time for an answer to four minutes, whatever a fast
/// reader received before.
const MAX_UNREAD: u64 = 2 * 1024 * 1024;

/// The heartbeat of one session, without its settings, which all sessions share.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    last_received: Instant,
    /// Bytes that the socket had taken by then.
    written: u64,
    /// When the answer to the ping is due; `None` if no ping is unanswered.
    due: Option<Instant>,
}

/// What the session is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeartbeatAction {
    /// Nothing before this instant.
    Wait(Instant),
    /// Send a ping.
    Ping,
    /// Close: the ping was not answered.
    Lost,
}

impl Heartbeat {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last_received: now, written: 0, due: None }
    }

    /// The peer sent something: any bytes count. By now its socket has taken `written` bytes.
    pub(crate) fn received(&mut self, now: Instant, written: u64) {
        self.last_received = now;
        self.written = written;
        self.due = None;
    }

    /// Returns [`HeartbeatAction::Ping`] once for each ping: the caller sends it, behind the bytes
    /// that were `sent` so far.
    ///
    /// The peer reaches the ping when it has read what precedes it. How much that is only the peer
    /// knows: what its kernel has acknowledged may still wait there. So the time for an answer is
    /// extended by what a slow peer takes to read everything that was sent since the last byte was
    /// received from it.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        config: HeartbeatConfig,
        sent: impl FnOnce() -> u64,
    ) -> HeartbeatAction {
        match self.due {
            Some(due) if now < due => return HeartbeatAction::Wait(due),
            Some(due) if !was_missed(due, now) => return HeartbeatAction::Lost,
            // The process did not run: the answer may be in the socket. The peer is pinged again.
            Some(_) => {}
            None => {
                let due = after(self.last_received, config.interval);
                if now < due {
                    return HeartbeatAction::Wait(due);
                }
            }
        }
        let unread = sent().saturating_sub(self.written).min(MAX_UNREAD);
        let reading = Duration::from_millis(unread * 1000 / MIN_READ_RATE);
        self.due = Some(after(now, config.timeout.saturating_add(reading)));
        HeartbeatAction::Ping
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: HeartbeatConfig =
        HeartbeatConfig { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };

    /// At this second bytes are received or the heartbeat is polled; or so many KiB are sent.
    enum Step {
        Received(u64),
        Sent(u64),
        Poll(u64, Expected),
    }

    enum Expected {
        Wait(u64),
        Ping,
        Lost,
    }

    fn check(script: &[Step]) {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut heartbeat = Heartbeat::new(start);
        let mut sent = 0;
        for step in script {
            match step {
                Step::Received(secs) => heartbeat.received(at(*secs), sent),
                Step::Sent(kib) => sent += kib * 1024,
                Step::Poll(secs, expected) => {
                    let expected = match expected {
                        Expected::Wait(until) => HeartbeatAction::Wait(at(*until)),
                        Expected::Ping => HeartbeatAction::Ping,
                        Expected::Lost => HeartbeatAction::Lost,
                    };
                    assert_eq!(heartbeat.poll(at(*secs), CONFIG, || sent), expected, "at {secs} s");
                }
            }
        }
    }

    #[test]
    fn silence_is_pinged_once_and_then_lost() {
        use Step::Poll;
        check(&[
            Poll(0, Expected::Wait(25)),
            Poll(24, Expected::Wait(25)),
            Poll(25, Expected::Ping),
            Poll(25, Expected::Wait(45)),
            Poll(44, Expected::Wait(45)),
            Poll(45, Expected::Lost),
        ]);
    }

    #[test]
    fn answer_restarts_the_interval() {
        use Step::{Poll, Received};
        check(&[
            Poll(25, Expected::Ping),
            Received(44),
            Poll(45, Expected::Wait(69)),
            Poll(69, Expected::Ping),
            Poll(89, Expected::Lost),
        ]);
    }

    #[test]
    fn active_peer_is_never_pinged() {
        use Step::{Poll, Received};
        check(&[
            Received(20),
            Poll(25, Expected::Wait(45)),
            Received(44),
            Poll(45, Expected::Wait(69)),
        ]);
    }

    #[test]
    fn answer_is_due_after_a_late_ping() {
        use Step::Poll;
        check(&[Poll(60, Expected::Ping), Poll(79, Expected::Wait(80)), Poll(80, Expected::Lost)]);
    }

    #[test]
    fn answer_is_due_when_a_slow_peer_has_read_what_lies_before_the_ping() {
        use Step::{Poll, Received, Sent};
        check(&[
            Sent(100_000),
            Received(10),
            // They take 85 s.
            Sent(680),
            Poll(35, Expected::Ping),
            Poll(139, Expected::Wait(140)),
            Poll(140, Expected::Lost),
        ]);
        check(&[
            Sent(1_000_000),
            Poll(25, Expected::Ping),
            Poll(300, Expected::Wait(301)),
            Poll(301, Expected::Lost),
        ]);
    }

    #[test]
    fn deadline_that_passed_while_the_process_was_stopped_is_followed_by_another_ping() {
        use Step::Poll;
        check(&[
            Poll(25, Expected::Ping),
            Poll(47, Expected::Ping),
            Poll(66, Expected::Wait(67)),
            Poll(67, Expected::Lost),
        ]);
    }
}
