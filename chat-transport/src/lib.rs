#![doc = include_str!("../README.md")]
//!
//! # Where a connection comes from
//! | source | way |
//! |---|---|
//! | a raw stream | [`accept_tcp`], or [`accept()`], does the handshake and gives a session |
//! | an HTTP server | [`handshake::respond`] gives the answer; then [`Session::on_tcp`], or [`Session::new`] |
//!
//! On [TCP](Session::on_tcp) a frame goes from [`Outbox::send`] to the socket in one system call on
//! the caller's thread, as long as the peer keeps up; on any other stream, and when a peer
//! lags, it waits in the outbox, and what waits is written together.
//!
//! # Bounds
//! | what | limit | when it is reached |
//! |---|---|---|
//! | outbox | [`outbox_bytes`](TransportConfig::outbox_bytes), [`outbox_frames`](TransportConfig::outbox_frames) | [`DeliveryOutcome::Full`](chat_core::DeliveryOutcome::Full), counted by [`Outbox::refused`] |
//! | the kernel's buffers of a [TCP socket](Session::on_tcp) | [`socket_buffer_bytes`](TransportConfig::socket_buffer_bytes) | the outbox fills |
//! | a peer that takes nothing | [`write_timeout`](TransportConfig::write_timeout) | 4000 |
//! | a silent peer | [`heartbeat`](TransportConfig::heartbeat) | ping, then 4001 |
//! | message, frame | [`max_message_bytes`](TransportConfig::max_message_bytes), [`max_frame_bytes`](TransportConfig::max_frame_bytes) | 1009 |
//! | fragments, time for a message | [`max_fragments`](TransportConfig::max_fragments), [`message_timeout`](TransportConfig::message_timeout) | 1008 |
//! | pongs waiting | 4 KiB | the newest alone is kept |
//! | pings and pongs in a second | [`max_control_frames`](TransportConfig::max_control_frames) | 1008 |
//! | text that is not UTF-8 | | 1007 |
//! | any other breach of RFC 6455 | | 1002 |
//!
//! Extensions, `permessage-deflate` among them, are not offered.
//!
//! The other end of a connection is in the module `client`, behind the feature of that name.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
#[cfg(feature = "client")]
pub mod client;
mod close;
mod codec;
mod config;
mod error;
pub mod handshake;
mod heartbeat;
mod message;
mod outbox;
mod session;
mod stats;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;

#[cfg(doc)]
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

pub use accept::{Accepted, accept, accept_tcp};
pub use close::InvalidClose;
pub use config::{HeartbeatConfig, TransportConfig};
pub use error::{End, LimitViolation, TransportError};
pub use handshake::HandshakeError;
pub use message::{Incoming, Text};
pub use outbox::{Outbox, OutboxUsage};
pub use session::Session;
pub use stats::OutboxStats;
pub use stream::SharedTcp;
