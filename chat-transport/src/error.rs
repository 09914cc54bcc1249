//! Errors of the handshake, and the ends of a session.

use std::io;

use chat_core::CloseReason;

use crate::handshake::HandshakeError;

/// Why a connection did not become a session. The peer has received its answer already.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The request was refused.
    #[error("the handshake was refused: {0}")]
    Handshake(#[from] HandshakeError),
    /// The peer took too long to send its request.
    #[error("the request did not arrive in time")]
    Timeout,
    /// The socket failed or ended early.
    #[error("the connection failed during the handshake")]
    Io(#[from] io::Error),
}

/// The limit that a peer exceeded, which ended its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LimitViolation {
    /// [`max_frame_bytes`](crate::TransportConfig::max_frame_bytes) or
    /// [`max_message_bytes`](crate::TransportConfig::max_message_bytes).
    Size,
    /// [`max_fragments`](crate::TransportConfig::max_fragments).
    Fragments,
    /// [`max_control_frames`](crate::TransportConfig::max_control_frames).
    ControlFrames,
    /// [`message_timeout`](crate::TransportConfig::message_timeout).
    MessageTime,
    /// [`write_timeout`](crate::TransportConfig::write_timeout).
    WriteTime,
    /// [`heartbeat`](crate::TransportConfig::heartbeat).
    Heartbeat,
}

/// How a session ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// The peer sent a close frame.
    ByPeer {
        /// The code of its close frame, if that had one: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
        code: Option<u16>,
        /// The phrase of its close frame, which the peer chooses freely; empty without a code.
        phrase: Box<str>,
    },
    /// This side sent a close frame: [`Outbox::close`](crate::Outbox::close) was called, or
    /// the peer violated the protocol or a limit.
    Local(CloseReason),
    /// This side sent a close frame of its own: [`Outbox::close_with`](crate::Outbox::close_with) was
    /// called.
    Custom {
        /// The code of the close frame.
        code: u16,
        /// The phrase of the close frame.
        phrase: Box<str>,
    },
    /// The connection failed, or ended (`None`), without a close frame.
    Lost(Option<io::Error>),
}
