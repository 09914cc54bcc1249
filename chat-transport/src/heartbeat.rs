//! When to ask a silent peer whether it is there. Pure: the time is an argument.

use tokio::time::Instant;

use crate::config::HeartbeatConfig;
use crate::timer::after;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    config: HeartbeatConfig,
    heard: Instant,
    pinged: Option<Instant>,
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
    pub(crate) fn new(config: HeartbeatConfig, now: Instant) -> Self {
        Self { config, heard: now, pinged: None }
    }

    /// The peer sent something: any bytes count.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// A [`Beat::Ping`] is asked for once: the caller sends it.
    pub(crate) fn poll(&mut self, now: Instant) -> Beat {
        if let Some(pinged) = self.pinged {
            let deadline = after(pinged, self.config.timeout);
            return if now < deadline { Beat::Wait(deadline) } else { Beat::Lost };
        }
        let due = after(self.heard, self.config.interval);
        if now < due {
            return Beat::Wait(due);
        }
        self.pinged = Some(now);
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: HeartbeatConfig =
        HeartbeatConfig { interval: Duration::from_secs(25), timeout: Duration::from_secs(20) };

    /// What happens at a second: something is heard, or the heartbeat is asked.
    enum At {
        Heard(u64),
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
        let mut heartbeat = Heartbeat::new(CONFIG, start);
        for step in script {
            match step {
                At::Heard(secs) => heartbeat.heard(at(*secs)),
                At::Poll(secs, want) => {
                    let want = match want {
                        Want::Wait(until) => Beat::Wait(at(*until)),
                        Want::Ping => Beat::Ping,
                        Want::Lost => Beat::Lost,
                    };
                    assert_eq!(heartbeat.poll(at(*secs)), want, "at {secs} s");
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
    fn an_answer_starts_over() {
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
    fn a_talker_is_never_pinged() {
        use At::{Heard, Poll};
        check(&[Heard(20), Poll(25, Want::Wait(45)), Heard(44), Poll(45, Want::Wait(69))]);
    }

    #[test]
    fn the_answer_is_due_after_a_late_ping() {
        use At::Poll;
        check(&[Poll(60, Want::Ping), Poll(79, Want::Wait(80)), Poll(80, Want::Lost)]);
    }
}
