//! Why a connection ended, in the words of the log.

use std::fmt;

use chat_core::CloseReason;
use chat_transport::{End, LimitViolation};

/// Why a connection ended. A cause that is also a limit has the name that
/// `chat_limited_total{limit}` has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// The client sent a close frame.
    ClientClosed,
    /// The connection broke, or the client ended it without a close frame.
    Lost,
    /// A moderator or a backend removed the user from the room of a client whose dialect has one room.
    Kicked,
    /// A backend, or the application that embeds the server, closed all connections of the user.
    Disconnected,
    Banned,
    TokenExpired,
    /// The client has sent no valid token in time.
    AuthTimeout,
    /// The permissions of a new token do not include the room of a client whose dialect has one room.
    Forbidden,
    /// The server shuts down, or moves the client to another server.
    Drain,
    /// What waited for the client did not fit into its outbox.
    SlowConsumer,
    WriteTime,
    Heartbeat,
    FrameSize,
    Fragments,
    MessageTime,
    ControlFrames,
    /// A binary frame, a text that is not UTF-8, or a frame that RFC 6455 forbids.
    ProtocolError,
    /// The history could not be read for a client that was behind.
    HistoryUnavailable,
    /// The task of the connection panicked.
    Panic,
    /// The application that embeds the server closed the connection.
    Application,
}

impl Cause {
    pub(crate) const ALL: [Self; 20] = [
        Self::ClientClosed,
        Self::Lost,
        Self::Kicked,
        Self::Disconnected,
        Self::Banned,
        Self::TokenExpired,
        Self::AuthTimeout,
        Self::Forbidden,
        Self::Drain,
        Self::SlowConsumer,
        Self::WriteTime,
        Self::Heartbeat,
        Self::FrameSize,
        Self::Fragments,
        Self::MessageTime,
        Self::ControlFrames,
        Self::ProtocolError,
        Self::HistoryUnavailable,
        Self::Panic,
        Self::Application,
    ];

    /// The cause of `end`. `is_pending`: the client had yet to authenticate.
    pub(crate) fn of(end: &End, violation: Option<LimitViolation>, is_pending: bool) -> Self {
        match (end, violation) {
            (End::Local(_), Some(violation)) => Self::of_violation(violation),
            (End::Local(reason), None) => Self::of_reason(*reason, is_pending),
            (End::ByPeer { .. }, _) => Self::ClientClosed,
            (End::Custom { .. }, _) => Self::Application,
            _ => Self::Lost,
        }
    }

    fn of_violation(violation: LimitViolation) -> Self {
        match violation {
            LimitViolation::Size => Self::FrameSize,
            LimitViolation::Fragments => Self::Fragments,
            LimitViolation::ControlFrames => Self::ControlFrames,
            LimitViolation::MessageTime => Self::MessageTime,
            LimitViolation::WriteTime => Self::WriteTime,
            LimitViolation::Heartbeat => Self::Heartbeat,
            _ => Self::ProtocolError,
        }
    }

    fn of_reason(reason: CloseReason, is_pending: bool) -> Self {
        match reason {
            CloseReason::GoingAway => Self::Drain,
            CloseReason::Kicked => Self::Kicked,
            CloseReason::Banned => Self::Banned,
            CloseReason::TokenExpired => Self::TokenExpired,
            CloseReason::PolicyViolation if is_pending => Self::AuthTimeout,
            CloseReason::PolicyViolation => Self::Forbidden,
            CloseReason::SlowConsumer => Self::SlowConsumer,
            CloseReason::HeartbeatLost => Self::Heartbeat,
            CloseReason::TooBig => Self::FrameSize,
            CloseReason::ProtocolError | CloseReason::Unsupported | CloseReason::InvalidUtf8 => {
                Self::ProtocolError
            }
            CloseReason::InternalError => Self::HistoryUnavailable,
            _ => Self::Application,
        }
    }

    /// The limit that the client reached, as metrics name it, if the cause is one.
    pub(crate) fn limit(self) -> Option<&'static str> {
        match self {
            Self::SlowConsumer => Some("outbox"),
            Self::WriteTime
            | Self::Heartbeat
            | Self::FrameSize
            | Self::Fragments
            | Self::MessageTime
            | Self::ControlFrames
            | Self::AuthTimeout => Some(self.as_str()),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::Lost => "lost",
            Self::Kicked => "kicked",
            Self::Disconnected => "disconnected",
            Self::Banned => "banned",
            Self::TokenExpired => "token_expired",
            Self::AuthTimeout => "auth_timeout",
            Self::Forbidden => "forbidden",
            Self::Drain => "drain",
            Self::SlowConsumer => "slow_consumer",
            Self::WriteTime => "write_time",
            Self::Heartbeat => "heartbeat",
            Self::FrameSize => "frame_size",
            Self::Fragments => "fragments",
            Self::MessageTime => "message_time",
            Self::ControlFrames => "control_frames",
            Self::ProtocolError => "protocol_error",
            Self::HistoryUnavailable => "history_unavailable",
            Self::Panic => "panic",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The close code of `end`: of the close frame that either side sent, and of RFC 6455 section 7.1.5
/// where there was none.
pub(crate) fn close_code(end: &End) -> u16 {
    match end {
        End::Local(reason) => reason.code(),
        End::Custom { code, .. } => *code,
        End::ByPeer { code, .. } => code.unwrap_or(1005),
        _ => 1006,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names in the first column of the table of causes in docs/operating.md.
    fn documented() -> BTreeSet<String> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, table) = page.split_once("\n| `cause=` |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let names =
            rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
        names.map(str::to_owned).collect()
    }

    #[test]
    fn every_cause_is_documented_and_no_other() {
        let causes = Cause::ALL.map(|cause| cause.as_str().to_owned());
        assert_eq!(documented(), BTreeSet::from(causes));
    }

    /// The budgets of log lines are indexed by it.
    #[test]
    fn causes_are_listed_in_their_order() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index, "{cause}");
        }
    }

    #[test]
    fn every_cause_has_an_end() {
        const VIOLATIONS: [LimitViolation; 6] = [
            LimitViolation::Size,
            LimitViolation::Fragments,
            LimitViolation::ControlFrames,
            LimitViolation::MessageTime,
            LimitViolation::WriteTime,
            LimitViolation::Heartbeat,
        ];
        let end = |end: End| Cause::of(&end, None, false);
        let mut found = vec![
            end(End::ByPeer { code: None, phrase: "".into() }),
            end(End::Lost(None)),
            end(End::Custom { code: 4100, phrase: "".into() }),
            Cause::of(&End::Local(CloseReason::PolicyViolation), None, true),
            // What the connection knows beside its end; `e2e::log` has the latter.
            Cause::Panic,
            Cause::Disconnected,
        ];
        found.extend(CloseReason::ALL.iter().map(|reason| end(End::Local(*reason))));
        found.extend(VIOLATIONS.map(|violation| {
            Cause::of(&End::Local(CloseReason::PolicyViolation), Some(violation), false)
        }));
        for cause in Cause::ALL {
            assert!(found.contains(&cause), "nothing ends for {cause}");
        }
    }
}
