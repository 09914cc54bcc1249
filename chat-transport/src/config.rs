//! Limits and deadlines of sessions.

use std::time::Duration;

/// Limits and deadlines of the sessions of a server. Share one in an `Arc`.
///
/// ```
/// use std::time::Duration;
/// use chat_transport::{HeartbeatConfig, TransportConfig};
///
/// let config = TransportConfig::default()
///     .max_message_bytes(16 * 1024)
///     .heartbeat(HeartbeatConfig::default().interval(Duration::from_secs(10)));
/// assert_eq!(config.max_message_bytes, 16 * 1024);
/// assert_eq!(config.frame_limit(), 16 * 1024);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TransportConfig {
    /// Largest message that is accepted, in bytes, inclusive. Default 65,536. A message
    /// being received takes up to this much memory.
    pub max_message_bytes: usize,
    /// Largest frame that is accepted, in bytes, inclusive. Default `None`: as large as a message.
    /// A limit above [`max_message_bytes`](Self::max_message_bytes) has no effect. Memory for a
    /// frame is reserved when its header arrives.
    pub max_frame_bytes: Option<usize>,
    /// How many frames one message may have. Default 1,024. It bounds the work for a message that
    /// never ends.
    pub max_fragments: u32,
    /// How many pings and pongs a peer may send within a second before it is closed with
    /// 1008. Default 1,000. They cost no memory, whatever their number: the limit bounds the work.
    pub max_control_frames: u32,
    /// How long a message may take from its first byte to its last. Default 30 s.
    pub message_timeout: Duration,
    /// How many bytes of data the kernel may hold for a session [on TCP](crate::Session::on_tcp) in
    /// each direction. Default 131,072 (128 KiB); 0 leaves it to the kernel, which grows it to several
    /// MiB. Linux uses twice as much memory for it, and no more than `net.core.wmem_max` and
    /// `rmem_max` allow. A connection carries this much in one round trip: 1.3 MB a second
    /// over 100 ms.
    pub socket_buffer_bytes: usize,
    /// How many bytes may wait in an outbox. Default 1 MiB, on top of
    /// [`socket_buffer_bytes`](Self::socket_buffer_bytes). One entry above the limit is accepted if
    /// nothing else waits.
    pub outbox_bytes: usize,
    /// How many frames may wait in an outbox. Default 4,096. An entry costs about 40 bytes
    /// beside its frames, which all members of a room share.
    pub outbox_frames: usize,
    /// How long the socket may take nothing while something waits to be written. Default 10 s.
    pub write_timeout: Duration,
    /// How long the closing handshake may take: what is queued, the close frame, the peer's answer.
    /// Default 5 s. A TCP peer has 1 s more to end its side of the connection; one that still sends a
    /// message that violates a limit, such as [`max_message_bytes`](Self::max_message_bytes), has
    /// 30 s and 24 MiB ([`Session::finish`](crate::Session::finish)).
    pub close_timeout: Duration,
    /// When to ping an idle peer; `None`: never. Default: after 25 s, with 10 s for an answer. It
    /// costs one frame in each direction per idle session and interval.
    pub heartbeat: Option<HeartbeatConfig>,
    /// How long a peer may take to send the head of its request. Default 10 s.
    pub handshake_timeout: Duration,
    /// Largest head of a request, in bytes. Default 16 KiB.
    pub max_head_bytes: usize,
}

/// When a silent peer is pinged, and when it is closed.
///
/// ```
/// use std::time::Duration;
/// use chat_transport::HeartbeatConfig;
///
/// let heartbeat = HeartbeatConfig::default().interval(Duration::from_secs(50));
/// assert_eq!(heartbeat.timeout, Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatConfig {
    /// How long the peer may be silent before it is pinged. Default 25 s.
    pub interval: Duration,
    /// How long the peer then has for an answer, which may be any bytes. Default 10 s. The time is
    /// extended by 1 s for each 8 KiB that was sent to the peer since it last sent something, for at
    /// most 2 MiB: a peer that reads slowly reaches the ping later. (On Linux the kernel ends a
    /// connection that does not acknowledge what was sent for `interval` and `timeout`.)
    pub timeout: Duration,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) }
    }
}

impl HeartbeatConfig {
    /// Sets [`interval`](Self::interval).
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            max_frame_bytes: None,
            max_fragments: 1024,
            max_control_frames: 1000,
            message_timeout: Duration::from_secs(30),
            socket_buffer_bytes: 128 * 1024,
            outbox_bytes: 1024 * 1024,
            outbox_frames: 4096,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            heartbeat: Some(HeartbeatConfig::default()),
            handshake_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
        }
    }
}

impl TransportConfig {
    /// The largest frame that is accepted, in bytes: [`max_frame_bytes`](Self::max_frame_bytes), or
    /// [`max_message_bytes`](Self::max_message_bytes) if that is less.
    #[must_use]
    pub fn frame_limit(&self) -> usize {
        let max = self.max_frame_bytes.unwrap_or(self.max_message_bytes);
        max.min(self.max_message_bytes)
    }

    /// How long sent bytes may stay unacknowledged by the peer's kernel: as long as a silent peer
    /// has for its pong, and never so short that it ends a slow peer before the clocks of the
    /// session do, which close it with a reason. `None` without a heartbeat.
    pub(crate) fn tcp_user_timeout(&self) -> Option<Duration> {
        let HeartbeatConfig { interval, timeout } = self.heartbeat?;
        Some(interval.saturating_add(timeout).max(self.write_timeout.saturating_mul(2)))
    }

    /// Sets [`max_message_bytes`](Self::max_message_bytes).
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets [`max_frame_bytes`](Self::max_frame_bytes).
    #[must_use]
    pub fn max_frame_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.max_frame_bytes = bytes.into();
        self
    }

    /// Sets [`max_fragments`](Self::max_fragments).
    #[must_use]
    pub fn max_fragments(mut self, frames: u32) -> Self {
        self.max_fragments = frames;
        self
    }

    /// Sets [`max_control_frames`](Self::max_control_frames).
    #[must_use]
    pub fn max_control_frames(mut self, frames: u32) -> Self {
        self.max_control_frames = frames;
        self
    }

    /// Sets [`message_timeout`](Self::message_timeout).
    #[must_use]
    pub fn message_timeout(mut self, timeout: Duration) -> Self {
        self.message_timeout = timeout;
        self
    }

    /// Sets [`socket_buffer_bytes`](Self::socket_buffer_bytes).
    #[must_use]
    pub fn socket_buffer_bytes(mut self, bytes: usize) -> Self {
        self.socket_buffer_bytes = bytes;
        self
    }

    /// Sets [`outbox_bytes`](Self::outbox_bytes).
    #[must_use]
    pub fn outbox_bytes(mut self, bytes: usize) -> Self {
        self.outbox_bytes = bytes;
        self
    }

    /// Sets [`outbox_frames`](Self::outbox_frames).
    #[must_use]
    pub fn outbox_frames(mut self, frames: usize) -> Self {
        self.outbox_frames = frames;
        self
    }

    /// Sets [`write_timeout`](Self::write_timeout).
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets [`close_timeout`](Self::close_timeout).
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets [`heartbeat`](Self::heartbeat); `None` turns it off.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<HeartbeatConfig>>) -> Self {
        self.heartbeat = heartbeat.into();
        self
    }

    /// Sets [`handshake_timeout`](Self::handshake_timeout).
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets [`max_head_bytes`](Self::max_head_bytes).
    #[must_use]
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.max_head_bytes = bytes;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_limit_is_at_most_the_message_limit() {
        let config = TransportConfig::default().max_message_bytes(100);
        assert_eq!(config.frame_limit(), 100);
        assert_eq!(config.clone().max_frame_bytes(7).frame_limit(), 7);
        assert_eq!(config.max_frame_bytes(1000).frame_limit(), 100);
    }
}
