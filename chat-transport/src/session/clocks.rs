//! The deadlines of a session.

use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use chat_core::CloseReason;
use tokio::time::Instant;

use crate::config::TransportConfig;
use crate::error::LimitViolation;
use crate::heartbeat::{Beat, Heartbeat};
use crate::timer::{Timer, after, was_missed};

/// All clocks of an open session, on one timer.
#[derive(Debug)]
pub(super) struct Clocks {
    timer: Timer,
    heartbeat: Heartbeat,
    /// Since when the peer has taken nothing.
    stalled: Option<Instant>,
    /// Since when a message has been incomplete.
    incomplete: Option<Instant>,
    controls: Controls,
}

/// Pings and pongs of the current second.
#[derive(Debug, Default)]
struct Controls {
    /// The second, counted from any moment.
    second: u32,
    count: u32,
}

/// Why a session is closed whose peer is stalled, or leaves a message incomplete.
const REASONS: [(CloseReason, LimitViolation); 2] = [
    (CloseReason::SlowConsumer, LimitViolation::WriteTime),
    (CloseReason::PolicyViolation, LimitViolation::MessageTime),
];

/// What is due.
pub(super) enum Due {
    Ping,
    Close(CloseReason, LimitViolation),
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            timer: Timer::default(),
            heartbeat: Heartbeat::new(now),
            stalled: None,
            incomplete: None,
            controls: Controls::default(),
        }
    }

    /// A ping or a pong came in: whether there may be as many as that in a second.
    pub(super) fn may_control(&mut self, max: u32) -> bool {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let second = BEGAN.elapsed().as_secs() as u32;
        let controls = &mut self.controls;
        if controls.second != second {
            *controls = Controls { second, count: 0 };
        }
        controls.count = controls.count.saturating_add(1);
        controls.count <= max
    }

    /// Bytes came in, by when the peer's socket had taken so many.
    pub(super) fn heard(&mut self, now: Instant, written: u64) {
        self.heartbeat.heard(now, written);
    }

    /// Nothing more came in, and a message is incomplete.
    pub(super) fn incomplete(&mut self, now: Instant) {
        self.incomplete.get_or_insert(now);
    }

    /// A message is complete.
    pub(super) fn complete(&mut self) {
        self.incomplete = None;
    }

    /// The peer takes nothing for now.
    pub(super) fn stalled(&mut self, now: Instant) {
        self.stalled.get_or_insert(now);
    }

    /// The peer took something.
    pub(super) fn took(&mut self) {
        self.stalled = None;
    }

    /// What is due, when so many bytes were `sent`. While the session is not `reading`, silence is
    /// not held against the peer: its bytes may be waiting.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reading: bool,
        config: &TransportConfig,
        sent: impl Fn() -> u64,
    ) -> Poll<Due> {
        loop {
            let now = Instant::now();
            self.restart_missed(now, config);
            let stalled = self.stalled.map(|since| after(since, config.write_timeout));
            let incomplete = self.incomplete.map(|since| after(since, config.message_timeout));
            let mut deadlines = [stalled, incomplete.filter(|_| reading), None];
            for (deadline, (reason, breach)) in deadlines.iter().zip(REASONS) {
                if deadline.is_some_and(|deadline| deadline <= now) {
                    return Poll::Ready(Due::Close(reason, breach));
                }
            }
            let beat = config.heartbeat.map(|config| self.heartbeat.poll(now, config, &sent));
            match beat {
                Some(Beat::Ping) => return Poll::Ready(Due::Ping),
                Some(Beat::Lost) if reading => {
                    return Poll::Ready(Due::Close(
                        CloseReason::HeartbeatLost,
                        LimitViolation::Heartbeat,
                    ));
                }
                Some(Beat::Wait(until)) => deadlines[2] = Some(until),
                Some(Beat::Lost) | None => {}
            }
            let Some(next) = deadlines.into_iter().flatten().min() else { return Poll::Pending };
            ready!(self.timer.poll(cx, next));
        }
    }

    /// The peer gets the whole time again where the process did not run for some of it.
    fn restart_missed(&mut self, now: Instant, config: &TransportConfig) {
        let times = [config.write_timeout, config.message_timeout];
        for (since, time) in [&mut self.stalled, &mut self.incomplete].into_iter().zip(times) {
            if since.is_some_and(|since| was_missed(after(since, time), now)) {
                *since = Some(now);
            }
        }
    }

    /// Ready when `deadline` has passed, whatever else is due.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        while Instant::now() < deadline {
            ready!(self.timer.poll(cx, deadline));
        }
        Poll::Ready(())
    }
}
