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
    Kicked,
    Banned,
    TokenExpired,
    /// The client has sent no valid token in time.
    AuthTimeout,
    /// The permissions of a new token do not include the room of a client whose dialect has one room.
    Forbidden,
    /// The server shuts down.
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
    pub(crate) const ALL: [Self; 19] = [
        Self::ClientClosed,
        Self::Lost,
        Self::Kicked,
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
