//! When to ask a silent peer whether it is there. Pure: the time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::HeartbeatConfig;
use crate::timer::{after, was_missed};

/// The slowest that a peer may read, in bytes a second. A peer that reads more slowly is taken for
/// stalled as soon as the outbox fills: the kernel reports room in steps of a third of its buffer,
/// which takes such a peer as long as the [write timeout](crate::TransportConfig::write_timeout).
const SLOWEST: u64 = 8 * 1024;

/// The most that lies before a ping: a full outbox, and what the kernels of both sides hold. It
/// bounds the time for an answer to four minutes, whatever a fast reader got before.
const MOST_UNREAD: u64 = 2 * 1024 * 1024;

/// Without its settings: each session has one, and all have the same settings.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    heard: Instant,
    /// What the socket had taken by then, in bytes.
    written: u64,
    /// When the answer to a ping is due.
    due: Option<Instant>,
}

/// What a heartbeat asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing before this instant.
    Wait(Instant),
    /// A ping.
    Ping,
    /// The end: the ping was not answered.
    Lost,
}

impl Heartbeat {
    pub(crate) fn new(now: Instant) -> Self {
        Self { heard: now, written: 0, due: None }
    }

    /// The peer sent something: any bytes count. By now its socket has taken `written` bytes.
    pub(crate) fn heard(&mut self, now: Instant, written: u64) {
        self.heard = now;
        self.written = written;
        self.due = None;
    }

    /// A [`Beat::Ping`] is asked for once: the caller sends it, after the bytes that were
    /// `sent` so far.
    ///
    /// The peer gets to the ping when it has read what lies before it. Nobody but the peer knows
    /// how much that is: what its kernel has acknowledged may still wait there. So the time for an
    /// answer is longer by as long as a slow peer takes for all that was sent since it last sent
    /// something.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        config: HeartbeatConfig,
        sent: impl FnOnce() -> u64,
    ) -> Beat {
        match self.due {
            Some(due) if now < due => return Beat::Wait(due),
            Some(due) if !was_missed(due, now) => return Beat::Lost,
            Some(_) => {}
            None => {
                let due = after(self.heard, config.interval);
                if now < due {
                    return Beat::Wait(due);
                }
            }
        }
        let unread = sent().saturating_sub(self.written).min(MOST_UNREAD);
        let reading = Duration::from_millis(unread * 1000 / SLOWEST);
        self.due = Some(after(now, config.timeout.saturating_add(reading)));
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: HeartbeatConfig =
        HeartbeatConfig { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };

    /// What happens at a second: something is heard, so many KiB are sent, or the heartbeat is
    /// asked.
    enum At {
        Heard(u64),
        Sent(u64),
        Poll(u64, Want),
    }

    enum Want {
        Wait(u64),
        Ping,
        Lost,
    }

    fn check(script: &[At]) {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut heartbeat = Heartbeat::new(start);
        let mut sent = 0;
        for step in script {
            match step {
                At::Heard(secs) => heartbeat.heard(at(*secs), sent),
                At::Sent(kib) => sent += kib * 1024,
                At::Poll(secs, want) => {
                    let want = match want {
                        Want::Wait(until) => Beat::Wait(at(*until)),
                        Want::Ping => Beat::Ping,
                        Want::Lost => Beat::Lost,
                    };
                    assert_eq!(heartbeat.poll(at(*secs), CONFIG, || sent), want, "at {secs} s");
                }
            }
        }
    }

    #[test]
    fn silence_is_pinged_once_and_then_lost() {
        use At::Poll;
        check(&[
            Poll(0, Want::Wait(25)),
            Poll(24, Want::Wait(25)),
            Poll(25, Want::Ping),
            Poll(25, Want::Wait(45)),
            Poll(44, Want::Wait(45)),
            Poll(45, Want::Lost),
        ]);
    }

    #[test]
    fn answer_restarts_the_interval() {
        use At::{Heard, Poll};
        check(&[
            Poll(25, Want::Ping),
            Heard(44),
            Poll(45, Want::Wait(69)),
            Poll(69, Want::Ping),
            Poll(89, Want::Lost),
        ]);
    }

    #[test]
    fn active_peer_is_never_pinged() {
        use At::{Heard, Poll};
        check(&[Heard(20), Poll(25, Want::Wait(45)), Heard(44), Poll(45, Want::Wait(69))]);
    }

    #[test]
    fn answer_is_due_after_a_late_ping() {
        use At::Poll;
        check(&[Poll(60, Want::Ping), Poll(79, Want::Wait(80)), Poll(80, Want::Lost)]);
    }

    #[test]
    fn answer_is_due_when_a_slow_peer_has_read_what_lies_before_the_ping() {
        use At::{Heard, Poll, Sent};
        check(&[
            Sent(100_000),
            Heard(10),
            // They take 85 s.
            Sent(680),
            Poll(35, Want::Ping),
            Poll(139, Want::Wait(140)),
            Poll(140, Want::Lost),
        ]);
        check(&[
            Sent(1_000_000),
            Poll(25, Want::Ping),
            Poll(300, Want::Wait(301)),
            Poll(301, Want::Lost),
        ]);
    }

    #[test]
    fn deadline_that_passed_while_the_process_was_stopped_is_followed_by_another_ping() {
        use At::Poll;
        check(&[
            Poll(25, Want::Ping),
            Poll(47, Want::Ping),
            Poll(66, Want::Wait(67)),
            Poll(67, Want::Lost),
        ]);
    }
}
