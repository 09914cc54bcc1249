//! The deadlines of a session.
//!
//! | clock | starts | is cleared by | closes with |
//! |---|---|---|---|
//! | heartbeat | with each received byte | any received byte | 4001, after an unanswered ping |
//! | stalled | when the peer takes nothing of what is written | any byte that it takes | 4000 |
//! | incomplete | when input ends within a message | the end of the message | 1008 |
//!
//! A clock is checked where it is used, and all of them share one timer: a session that receives a
//! message does not touch it.

use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use chat_core::CloseReason;
use tokio::time::Instant;

use crate::config::TransportConfig;
use crate::error::LimitViolation;
use crate::heartbeat::{Heartbeat, HeartbeatAction};
use crate::timer::{Timer, after, was_missed};

/// The clocks of an open session.
#[derive(Debug)]
pub(super) struct Clocks {
    timer: Timer,
    heartbeat: Heartbeat,
    /// Since when the peer has taken nothing.
    stalled: Option<Instant>,
    /// Since when a message has been incomplete.
    incomplete: Option<Instant>,
    control_frames: ControlFrames,
}

/// Pings and pongs of the current second.
#[derive(Debug, Default)]
struct ControlFrames {
    /// The second, counted from any moment.
    second: u32,
    count: u32,
}

/// Why a session is closed if its peer is stalled, or leaves a message incomplete.
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
            control_frames: ControlFrames::default(),
        }
    }

    /// Counts a received ping or pong; whether the peer may send that many in a second.
    pub(super) fn allows_control_frame(&mut self, max: u32) -> bool {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let second = BEGAN.elapsed().as_secs() as u32;
        let control_frames = &mut self.control_frames;
        if control_frames.second != second {
            *control_frames = ControlFrames { second, count: 0 };
        }
        control_frames.count = control_frames.count.saturating_add(1);
        control_frames.count <= max
    }

    /// Bytes were received; the socket had taken `written` bytes by then.
    pub(super) fn received(&mut self, now: Instant, written: u64) {
        self.heartbeat.received(now, written);
    }

    /// The input ends within a message.
    pub(super) fn incomplete(&mut self, now: Instant) {
        self.incomplete.get_or_insert(now);
    }

    /// A message is complete.
    pub(super) fn complete(&mut self) {
        self.incomplete = None;
    }

    /// The socket takes nothing more.
    pub(super) fn stalled(&mut self, now: Instant) {
        self.stalled.get_or_insert(now);
    }

    /// The socket took something.
    pub(super) fn progressed(&mut self) {
        self.stalled = None;
    }

    /// What is due; `sent` is the number of bytes sent so far. While the session is not `reading`,
    /// the peer is not closed for silence: its bytes may be waiting in the socket.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reading: bool,
        config: &TransportConfig,
        sent: impl Fn() -> u64,
    ) -> Poll<Due> {
        loop {
            let now = Instant::now();
            // First of all: a deadline that passed while the process was suspended is none.
            self.restart_missed(now, config);
            let stalled = self.stalled.map(|since| after(since, config.write_timeout));
            let incomplete = self.incomplete.map(|since| after(since, config.message_timeout));
            let mut deadlines = [stalled, incomplete.filter(|_| reading), None];
            for (deadline, (reason, violation)) in deadlines.iter().zip(REASONS) {
                if deadline.is_some_and(|deadline| deadline <= now) {
                    return Poll::Ready(Due::Close(reason, violation));
                }
            }
            let action = config.heartbeat.map(|config| self.heartbeat.poll(now, config, &sent));
            match action {
                Some(HeartbeatAction::Ping) => return Poll::Ready(Due::Ping),
                Some(HeartbeatAction::Lost) if reading => {
                    return Poll::Ready(Due::Close(
                        CloseReason::HeartbeatLost,
                        LimitViolation::Heartbeat,
                    ));
                }
                Some(HeartbeatAction::Wait(until)) => deadlines[2] = Some(until),
                Some(HeartbeatAction::Lost) | None => {}
            }
            let Some(next) = deadlines.into_iter().flatten().min() else { return Poll::Pending };
            // The timer may be set earlier than `next`, for a deadline that has moved since: then the
            // loop finds nothing due and sets it again.
            ready!(self.timer.poll(cx, next));
        }
    }

    /// Restarts a clock whose deadline passed while the process did not run.
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
