//! Settings of connections and of what they send.

use std::time::Duration;

use chat_core::MAX_NAME_BYTES;
use chat_server::ServerConfig;
use clap::Args;

use super::value::{
    Invalid, MAX_BYTES, MAX_COUNT, MILLISECOND, SECOND, YEAR, number, time, zero_or,
};

/// What a healthy client sends.
const FEWEST_CONTROL_FRAMES: u32 = 10;

/// With less, a connection waits for its peer every few frames.
const SMALLEST_BUFFER: usize = 16 * 1024;

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct Connections {
    /// Longest text of a message, in bytes
    #[arg(long, value_name = "BYTES", default_value = "32768", value_parser = number(1..=MAX_BYTES))]
    max_message_bytes: usize,

    /// Largest frame from a client, in bytes; a larger one is closed with code 1009 [default: 7
    /// times --max-message-bytes and 4096, so that no text is too long by its escapes: 233472]
    #[arg(long, value_name = "BYTES", value_parser = number(1024..=MAX_BYTES))]
    max_frame_bytes: Option<usize>,

    /// Longest name of a room or a user, in bytes, at most 128
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = number(1..=MAX_NAME_BYTES))]
    max_name_bytes: usize,

    /// How deep JSON may be nested
    #[arg(long, value_name = "LEVELS", default_value = "64", value_parser = number(1..=MAX_COUNT))]
    max_json_depth: usize,

    /// Bytes that may be queued for a client that reads slowly before it is closed with code 4000
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = number(1024..=MAX_BYTES))]
    outbox_bytes: usize,

    /// Frames that may be queued for a client
    #[arg(long, value_name = "FRAMES", default_value = "4096", value_parser = number(256..=MAX_COUNT))]
    outbox_frames: usize,

    /// Bytes of data that the kernel may hold for a connection in either direction, 16384 at least;
    /// 0 leaves it to the kernel, which grows it to several MiB
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "131072",
        value_parser = zero_or(number(SMALLEST_BUFFER..=MAX_BYTES)),
    )]
    socket_buffer_bytes: usize,

    /// Largest head of a request, in bytes, 8192 at least
    #[arg(long, value_name = "BYTES", default_value = "16384", value_parser = number(8192..=MAX_BYTES))]
    max_header_bytes: usize,

    /// Pings and pongs of one connection in a second, 10 at least; a client that sends more is
    /// closed with code 1008
    #[arg(
        long,
        value_name = "FRAMES",
        default_value = "1000",
        value_parser = number(FEWEST_CONTROL_FRAMES..=u32::MAX),
    )]
    max_control_frames: u32,

    /// How long a connection may be silent before it is pinged; 0s: never
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = time(Duration::ZERO..=YEAR))]
    ping_interval: Duration,

    /// How long a pinged client may stay silent before it is closed with code 4001, and longer for
    /// what it has to read first
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=YEAR))]
    pong_timeout: Duration,

    /// How long a client may take to send the head of its request
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=YEAR))]
    handshake_timeout: Duration,

    /// How long an HTTP connection may be idle between two requests, longer than the balancer in
    /// front keeps it; 0s: closed after each response
    #[arg(
        long,
        value_name = "TIME",
        default_value = "150s",
        // Responses announce whole seconds.
        value_parser = zero_or(time(SECOND..=YEAR)),
    )]
    keep_alive_timeout: Duration,

    /// How long a client may take to send one message
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time(MILLISECOND..=YEAR))]
    message_timeout: Duration,

    /// How long a client may read nothing of what is sent to it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=YEAR))]
    write_timeout: Duration,
}

impl Connections {
    pub(super) fn add_to(&self, server: &mut ServerConfig, limits: bool) -> Result<(), Invalid> {
        let max_frame_bytes = self.checked_frame_bytes()?;
        server.max_message_bytes = self.max_message_bytes;
        server.keep_alive_timeout = self.keep_alive_timeout;
        server.limits.name_bytes = self.max_name_bytes;
        server.limits.json_depth = self.max_json_depth;
        let transport = &mut server.transport;
        transport.max_message_bytes = max_frame_bytes;
        transport.outbox_bytes = self.outbox_bytes;
        transport.outbox_frames = self.outbox_frames;
        transport.socket_buffer_bytes = self.socket_buffer_bytes;
        transport.max_head_bytes = self.max_header_bytes;
        transport.max_control_frames = if limits { self.max_control_frames } else { u32::MAX };
        transport.handshake_timeout = self.handshake_timeout;
        transport.message_timeout = self.message_timeout;
        transport.write_timeout = self.write_timeout;
        if let Some(heartbeat) = &mut transport.heartbeat {
            heartbeat.interval = self.ping_interval;
            heartbeat.timeout = self.pong_timeout;
        }
        transport.heartbeat = transport.heartbeat.filter(|beat| !beat.interval.is_zero());
        Ok(())
    }

    /// A message must fit into a frame, and a frame into the outbox.
    fn checked_frame_bytes(&self) -> Result<usize, Invalid> {
        let (message, outbox) = (self.max_message_bytes, self.outbox_bytes);
        let frame = self.max_frame_bytes.unwrap_or(ServerConfig::frame_bytes(message));
        if message >= frame {
            let why = format!("max-frame-bytes is {frame}, and a message must fit into one frame");
            return Err(Invalid::new("max-message-bytes", message, why));
        }
        if frame > outbox {
            let why = format!(
                "a frame may have {frame} bytes with max-message-bytes {message}, and the outbox \
                 must hold one"
            );
            return Err(Invalid::new("outbox-bytes", outbox, why));
        }
        Ok(frame)
    }
}
