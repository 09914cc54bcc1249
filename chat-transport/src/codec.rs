//! The WebSocket protocol without a socket: bytes in, messages out.
//!
//! tungstenite reads from a stream and answers on it. Here the stream is a slice that ends
//! with the current frame, so tungstenite's buffer is empty between frames and can be
//! released after a large one; and the answers are the session's to write, since they must
//! not land inside a frame that is half written.

use std::io::{self, Cursor, Read, Write};

use bytes::{Buf, Bytes};
use chat_core::CloseReason;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::config::TransportConfig;

/// Allocated for every session, and the step in which a frame is taken in.
const READ_BUFFER: usize = 256;

/// A message above this makes the codec release its buffer.
const KEPT_BUFFER: usize = 4 * 1024;

/// Decodes what one client sends.
#[derive(Debug)]
pub(crate) struct Codec {
    context: WebSocketContext,
    /// How much of the current frame is still to come.
    frame_left: u64,
    /// Frames of the message being put together.
    fragments: u32,
    max_fragments: u32,
}

/// A broken rule: how to close, and what it was.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) reason: CloseReason,
    pub(crate) detail: String,
}

impl Codec {
    pub(crate) fn new(config: &TransportConfig) -> Self {
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(config.max_message_bytes))
            .max_frame_size(Some(config.max_frame_bytes));
        Self {
            context: WebSocketContext::new(Role::Server, Some(limits)),
            frame_left: 0,
            fragments: 0,
            max_fragments: config.max_fragments,
        }
    }

    /// The next message in `input`, which is moved past what was used. Without a message,
    /// all is used but the part of a frame's header.
    pub(crate) fn decode(&mut self, input: &mut impl Buf) -> Result<Option<Message>, Violation> {
        loop {
            if self.frame_left == 0 && !self.begin_frame(input.chunk())? {
                return Ok(None);
            }
            let bytes = input.chunk();
            let here = usize::try_from(self.frame_left).unwrap_or(usize::MAX).min(bytes.len());
            if here == 0 {
                return Ok(None);
            }
            let result = self.context.read(&mut Input(&bytes[..here]));
            input.advance(here);
            self.frame_left -= here as u64;
            match result {
                Ok(message) => {
                    self.after(&message);
                    return Ok(Some(message));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn mid_message(&self) -> bool {
        self.frame_left > 0 || self.fragments > 0
    }

    /// Whether there is a whole header to begin a frame with.
    fn begin_frame(&mut self, bytes: &[u8]) -> Result<bool, Violation> {
        let mut cursor = Cursor::new(bytes);
        let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else {
            return Ok(false);
        };
        self.frame_left = cursor.position().saturating_add(payload);
        if let OpCode::Data(kind) = header.opcode {
            self.count_fragment(kind)?;
        }
        Ok(true)
    }

    fn count_fragment(&mut self, kind: Data) -> Result<(), Violation> {
        self.fragments = if kind == Data::Continue { self.fragments + 1 } else { 1 };
        if self.fragments > self.max_fragments {
            return Err(Violation {
                reason: CloseReason::PolicyViolation,
                detail: format!("more than {} fragments", self.max_fragments),
            });
        }
        Ok(())
    }

    fn after(&mut self, message: &Message) {
        if !matches!(message, Message::Text(_) | Message::Binary(_)) {
            return;
        }
        self.fragments = 0;
        if message.len() > KEPT_BUFFER {
            let limits = *self.context.get_config();
            self.context = WebSocketContext::new(Role::Server, Some(limits));
        }
    }
}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        let reason = match error {
            Error::Capacity(_) => CloseReason::TooBig,
            Error::Utf8(_) => CloseReason::InvalidUtf8,
            _ => CloseReason::ProtocolError,
        };
        Self { reason, detail: error.to_string() }
    }
}

/// Received bytes as the stream that tungstenite reads; its answers are dropped.
struct Input<'a>(&'a [u8]);

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buf)
    }
}

impl Write for Input<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn ping() -> Bytes {
    encode(Frame::ping(Bytes::new()))
}

pub(crate) fn pong(payload: Bytes) -> Bytes {
    encode(Frame::pong(payload))
}

pub(crate) fn binary(payload: Bytes) -> Bytes {
    encode(Frame::message(payload, OpCode::Data(Data::Binary), true))
}

pub(crate) fn close(reason: CloseReason) -> Bytes {
    let phrase = Utf8Bytes::from_static(reason.as_str());
    encode(Frame::close(Some(CloseFrame { code: reason.code().into(), reason: phrase })))
}

/// The answer to a peer's close frame: the same again (RFC 6455 section 5.5.1).
pub(crate) fn close_reply(frame: Option<CloseFrame>) -> Bytes {
    encode(Frame::close(frame))
}

fn encode(frame: Frame) -> Bytes {
    let mut bytes = Vec::with_capacity(frame.len());
    // Writing to a vector does not fail.
    let _ = frame.format(&mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame, masked with zeros.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            mask: Some([0; 4]),
            opcode: OpCode::Data(Data::Binary),
            ..FrameHeader::default()
        };
        let payload = Bytes::copy_from_slice(payload);
        encode(Frame::from_payload(header, payload)).to_vec()
    }

    fn decode(codec: &mut Codec, input: &mut &[u8]) -> Bytes {
        codec.decode(input).unwrap().unwrap().into_data()
    }

    #[test]
    fn a_large_message_leaves_no_large_buffer() {
        let mut codec = Codec::new(&TransportConfig::default());
        let input = [frame(&[7; 65_536]), frame(b"next")].concat();
        let mut input = &input[..];
        let large = decode(&mut codec, &mut input);
        assert_eq!(large, vec![7; 65_536]);
        // Whose bytes nobody else holds on to.
        assert!(large.is_unique());
        assert_eq!(decode(&mut codec, &mut input), "next");
        assert!(!codec.mid_message());
    }

    #[test]
    fn only_a_part_of_a_header_is_left_over() {
        let mut codec = Codec::new(&TransportConfig::default());
        let whole = frame(&[7; 1000]);
        for cut in 0..whole.len() {
            let mut input = &whole[..cut];
            assert!(codec.decode(&mut input).unwrap().is_none());
            let left = if cut < 8 { cut } else { 0 };
            assert_eq!(input.len(), left);
            assert_eq!(codec.mid_message(), cut >= 8);
            let mut rest = &whole[cut - left..];
            assert_eq!(decode(&mut codec, &mut rest), vec![7; 1000]);
            assert!(rest.is_empty());
        }
    }
}
