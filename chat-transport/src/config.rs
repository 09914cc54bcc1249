//! What a session may use, and for how long.

use std::time::Duration;

/// Limits and deadlines of the sessions of a server. Share one in an `Arc`.
///
/// ```
/// use std::time::Duration;
/// use chat_transport::TransportConfig;
///
/// let config = TransportConfig::default()
///     .max_message_bytes(16 * 1024)
///     .heartbeat(Duration::from_secs(10), Duration::from_secs(5));
/// assert_eq!(config.max_message_bytes, 16 * 1024);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TransportConfig {
    /// Largest message that is accepted, in bytes, inclusive. Default 65,536. A message
    /// being received takes up to this much memory.
    pub max_message_bytes: usize,
    /// Largest frame that is accepted, in bytes, inclusive. Default 65,536. Memory for a
    /// frame is reserved when its header arrives.
    pub max_frame_bytes: usize,
    /// How many frames one message may be cut into. Default 1,024. It bounds what a peer
    /// can make the server do for a message that never ends.
    pub max_fragments: u32,
    /// How many pings and pongs a peer may send within a second before it is closed with
    /// 1008. Default 1,000. They cost no memory, whatever their number: this bounds the work.
    pub max_control_frames: u32,
    /// How long a message may take from its first byte to its last. Default 30 s.
    pub message_timeout: Duration,
    /// How many bytes of data the kernel may hold for a session [on TCP](crate::Session::on_tcp) in either
    /// direction. Default 131,072 (128 KiB); 0 leaves it to the kernel, which grows it to several
    /// MiB. Linux takes twice as much memory for it, and no more than `net.core.wmem_max` and
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
    /// How long the peer may take nothing while something waits for it. Default 10 s.
    pub write_timeout: Duration,
    /// How long a goodbye may take: what is queued, the close frame, the peer's answer.
    /// Default 5 s. A TCP peer has 1 s more to end its side of the connection; one that still sends a
    /// message that was refused, such as one above [`max_message_bytes`](Self::max_message_bytes), has
    /// 30 s and 32 MiB ([`Session::finish`](crate::Session::finish)).
    pub close_timeout: Duration,
    /// When to ping; `None` never does. Default: after 25 s, with 10 s for an answer. Costs
    /// one frame each way per idle session and interval.
    pub heartbeat: Option<HeartbeatConfig>,
    /// How long a peer may take to send the head of its request. Default 10 s.
    pub handshake_timeout: Duration,
    /// Largest head of a request, in bytes. Default 16 KiB.
    pub max_head_bytes: usize,
}

/// When a peer that says nothing is asked whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// How long the peer may be silent before it is pinged.
    pub interval: Duration,
    /// How long it then has for an answer, which may be anything. The time is longer by 1 s for
    /// each 8 KiB that was sent to the peer since it last sent something, of 2 MiB at most: a peer
    /// that reads slowly gets to the ping later. (A line that does not even acknowledge what was
    /// sent is given up after `interval` and `timeout`, on Linux.)
    pub timeout: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            max_frame_bytes: 64 * 1024,
            max_fragments: 1024,
            max_control_frames: 1000,
            message_timeout: Duration::from_secs(30),
            socket_buffer_bytes: 128 * 1024,
            outbox_bytes: 1024 * 1024,
            outbox_frames: 4096,
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            heartbeat: Some(HeartbeatConfig {
                interval: Duration::from_secs(25),
                timeout: Duration::from_secs(10),
            }),
            handshake_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
        }
    }
}

impl TransportConfig {
    /// How long what was sent to a peer may stay unacknowledged by its kernel: as long as a peer
    /// that is silent has for its pong, and never so short that the clocks of a session would not
    /// notice a slow peer before. `None` without a heartbeat.
    pub(crate) fn dead_line_timeout(&self) -> Option<Duration> {
        let HeartbeatConfig { interval, timeout } = self.heartbeat?;
        Some(interval.saturating_add(timeout).max(self.write_timeout.saturating_mul(2)))
    }

    /// Sets [`max_message_bytes`](Self::max_message_bytes), and
    /// [`max_frame_bytes`](Self::max_frame_bytes) to the same.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self.max_frame_bytes = bytes;
        self
    }

    /// Sets [`max_frame_bytes`](Self::max_frame_bytes).
    #[must_use]
    pub fn max_frame_bytes(mut self, bytes: usize) -> Self {
        self.max_frame_bytes = bytes;
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

    /// Sets [`heartbeat`](Self::heartbeat).
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.heartbeat = Some(HeartbeatConfig { interval, timeout });
        self
    }

    /// Turns the [`heartbeat`](Self::heartbeat) off.
    #[must_use]
    pub fn no_heartbeat(mut self) -> Self {
        self.heartbeat = None;
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
