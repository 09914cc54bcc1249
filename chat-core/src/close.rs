//! Why a server ends a connection.

/// Why a server ends a connection: a WebSocket close code, a phrase, and whether the client should
/// connect again.
///
/// Codes below 4000 are those of RFC 6455 section 7.4.1; 4000 to 4999 are private to the
/// application there, and in this protocol each has one meaning.
///
/// ```
/// use chat_core::CloseReason;
///
/// let reason = CloseReason::SlowConsumer;
/// assert_eq!((reason.code(), reason.as_str()), (4000, "slow consumer"));
/// assert!(reason.may_reconnect() && !CloseReason::Banned.may_reconnect());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The session is complete.
    Normal,
    /// The server shuts down.
    GoingAway,
    /// The peer violated the WebSocket protocol.
    ProtocolError,
    /// The peer sent a binary frame; the protocol is text.
    Unsupported,
    /// The peer sent a text that is not UTF-8.
    InvalidUtf8,
    /// The client violated a limit repeatedly.
    PolicyViolation,
    /// The peer sent a frame or a message above the limit.
    TooBig,
    /// Something failed on the server.
    InternalError,
    /// The server has as many connections as are allowed.
    OverCapacity,
    /// The client read too slowly and its outbox was full.
    SlowConsumer,
    /// The client did not answer pings.
    HeartbeatLost,
    /// A moderator ended the connection.
    Kicked,
    /// The user is banned.
    Banned,
    /// The token expired.
    TokenExpired,
}

impl CloseReason {
    /// Every reason, in the order of its code.
    pub const ALL: &'static [Self] = &[
        Self::Normal,
        Self::GoingAway,
        Self::ProtocolError,
        Self::Unsupported,
        Self::InvalidUtf8,
        Self::PolicyViolation,
        Self::TooBig,
        Self::InternalError,
        Self::OverCapacity,
        Self::SlowConsumer,
        Self::HeartbeatLost,
        Self::Kicked,
        Self::Banned,
        Self::TokenExpired,
    ];

    /// The code in the close frame.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::Unsupported => 1003,
            Self::InvalidUtf8 => 1007,
            Self::PolicyViolation => 1008,
            Self::TooBig => 1009,
            Self::InternalError => 1011,
            Self::OverCapacity => 1013,
            Self::SlowConsumer => 4000,
            Self::HeartbeatLost => 4001,
            Self::Kicked => 4002,
            Self::Banned => 4003,
            Self::TokenExpired => 4004,
        }
    }

    /// The phrase in the close frame, also a stable label for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going away",
            Self::ProtocolError => "protocol error",
            Self::Unsupported => "text frames only",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::PolicyViolation => "policy violation",
            Self::TooBig => "message too big",
            Self::InternalError => "internal error",
            Self::OverCapacity => "over capacity",
            Self::SlowConsumer => "slow consumer",
            Self::HeartbeatLost => "heartbeat lost",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::TokenExpired => "token expired",
        }
    }

    /// Whether a client should connect again without being asked.
    #[must_use]
    pub const fn may_reconnect(self) -> bool {
        match self {
            Self::GoingAway
            | Self::PolicyViolation
            | Self::TooBig
            | Self::InternalError
            | Self::OverCapacity
            | Self::SlowConsumer
            | Self::HeartbeatLost => true,
            Self::Normal
            | Self::ProtocolError
            | Self::Unsupported
            | Self::InvalidUtf8
            | Self::Kicked
            | Self::Banned
            | Self::TokenExpired => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_may_be_sent() {
        let mut codes: Vec<u16> = CloseReason::ALL.iter().map(|reason| reason.code()).collect();
        assert!(codes.is_sorted());
        codes.dedup();
        assert_eq!(codes.len(), CloseReason::ALL.len());
        for code in codes {
            assert!(matches!(code, 1000..=1003 | 1007..=1014 | 4000..=4999), "{code}");
        }
    }
}
