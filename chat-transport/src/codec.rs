//! The WebSocket protocol without a socket: bytes in, messages out.
//!
//! tungstenite reads from a stream and answers on it. Here the stream is a slice that ends
//! with the current frame, so tungstenite's buffer is empty between frames; and the session writes
//! the answers, since they must not land inside a frame that is partly written: what tungstenite
//! writes is dropped.
//!
//! So between messages a [`WebSocketContext`] holds nothing of its peer, except a pong that will
//! be dropped. A thread therefore keeps one context, and lends it to the session that decodes a
//! message: an idle session has none, which saves the most of its memory. The price: each frame's
//! header is parsed twice, once here to find the end of the frame.

use std::cell::Cell;
use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use chat_core::CloseReason;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::config::TransportConfig;
use crate::error::LimitViolation;

/// The step in which tungstenite reads a frame, in bytes.
const READ_BUFFER: usize = 512;

/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: u64 = 125;

/// Registered with IANA after RFC 6455. tungstenite does not know it and reports an error.
const BAD_GATEWAY: u16 = 1014;

/// After a message above this, in bytes, which made tungstenite's buffer as large, the context is
/// not used again.
const MAX_KEPT_BUFFER: usize = 4 * 1024;

thread_local! {
    static SPARE: Cell<Option<Box<WebSocketContext>>> = const { Cell::new(None) };
}

/// Decodes what one client sends.
#[derive(Debug)]
pub(crate) struct Codec {
    /// Set while a message is incomplete.
    context: Option<Box<WebSocketContext>>,
    /// Bytes of the current frame that were not received yet.
    frame_left: u64,
    /// Frames of the current message so far.
    fragments: u32,
    config: Arc<TransportConfig>,
}

/// A violated rule: how to close the connection, and why.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) reason: CloseReason,
    /// The limit that was exceeded, if the rule is a limit.
    pub(crate) limit: Option<LimitViolation>,
    /// For the log.
    pub(crate) detail: String,
}

impl Violation {
    /// Of a limit on time, whose name says what the peer did.
    pub(crate) fn of_time(reason: CloseReason, limit: LimitViolation) -> Self {
        Self { reason, limit: Some(limit), detail: String::new() }
    }
}

impl Codec {
    pub(crate) fn new(config: Arc<TransportConfig>) -> Self {
        Self { context: None, frame_left: 0, fragments: 0, config }
    }

    pub(crate) fn config(&self) -> &Arc<TransportConfig> {
        &self.config
    }

    /// The next message in `input`, which is advanced past what was used. Without a message,
    /// everything is used except a partial header or a partial close frame.
    pub(crate) fn decode(&mut self, input: &mut impl Buf) -> Result<Option<Message>, Violation> {
        loop {
            let mut close = None;
            if self.frame_left == 0 {
                match self.begin_frame(input.chunk())? {
                    FrameStart::Incomplete => return Ok(None),
                    FrameStart::Frame => {}
                    FrameStart::Close(code) => close = Some(code),
                }
            }
            let bytes = input.chunk();
            let available = usize::try_from(self.frame_left).unwrap_or(usize::MAX).min(bytes.len());
            if available == 0 {
                return Ok(None);
            }
            let mut context = self.context.take().unwrap_or_else(|| context(&self.config));
            let result = match close {
                Some(close) => read_close(&mut context, &bytes[..available], close),
                None => context.read(&mut Input(&bytes[..available])),
            };
            input.advance(available);
            self.frame_left -= available as u64;
            match result {
                Ok(message) => {
                    self.keep_context(&message, context);
                    return Ok(Some(message));
                }
                // The frame is not complete, or another fragment follows.
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.context = Some(context);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a message is incomplete.
    pub(crate) fn mid_message(&self) -> bool {
        self.frame_left > 0 || self.fragments > 0
    }

    /// Begins a frame if its header is complete, and a close frame only if all of it is there: its
    /// code is checked and may be replaced before tungstenite sees it.
    fn begin_frame(&mut self, bytes: &[u8]) -> Result<FrameStart, Violation> {
        let mut cursor = Cursor::new(bytes);
        let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else {
            return Ok(FrameStart::Incomplete);
        };
        let len = cursor.position().saturating_add(payload);
        let close = match header.opcode {
            OpCode::Control(Control::Close) if (2..=MAX_CONTROL).contains(&payload) => {
                let Some(frame) = bytes.get(..len as usize) else {
                    return Ok(FrameStart::Incomplete);
                };
                Some(close_code(frame, cursor.position() as usize, header.mask)?)
            }
            OpCode::Data(kind) => self.count_fragment(kind).map(|()| None)?,
            OpCode::Control(_) => None,
        };
        self.frame_left = len;
        Ok(close.map_or(FrameStart::Frame, FrameStart::Close))
    }

    /// tungstenite bounds the size of a message and not its frames: without this, a message of empty
    /// fragments would never end.
    fn count_fragment(&mut self, kind: Data) -> Result<(), Violation> {
        self.fragments = if kind == Data::Continue { self.fragments + 1 } else { 1 };
        if self.fragments > self.config.max_fragments {
            return Err(Violation {
                reason: CloseReason::PolicyViolation,
                limit: Some(LimitViolation::Fragments),
                detail: format!("more than {} fragments", self.config.max_fragments),
            });
        }
        Ok(())
    }

    fn keep_context(&mut self, message: &Message, context: Box<WebSocketContext>) {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            self.fragments = 0;
        }
        if message.is_close() {
            return;
        }
        if self.fragments > 0 {
            // A ping or pong between two fragments: the context holds the first of them.
            self.context = Some(context);
        } else if message.len() <= MAX_KEPT_BUFFER {
            SPARE.set(Some(context));
        }
    }
}

/// What [`Codec::begin_frame`] found.
enum FrameStart {
    /// Part of a header, or of a close frame.
    Incomplete,
    /// The header of any frame, or a close frame without a code.
    Frame,
    /// A close frame with a valid code.
    Close(PeerCode),
}

/// The code of a peer's close frame, and its index in the frame.
#[derive(Clone, Copy)]
struct PeerCode {
    code: u16,
    at: usize,
    is_masked: bool,
}

/// Reads the code of a whole close frame.
fn close_code(frame: &[u8], at: usize, mask: Option<[u8; 4]>) -> Result<PeerCode, Violation> {
    let is_masked = mask.is_some();
    let mask = mask.unwrap_or_default();
    let code = u16::from_be_bytes([frame[at] ^ mask[0], frame[at + 1] ^ mask[1]]);
    if may_be_sent(code) {
        return Ok(PeerCode { code, at, is_masked });
    }
    Err(Violation {
        reason: CloseReason::ProtocolError,
        limit: None,
        detail: format!("a close frame with the code {code}"),
    })
}

/// Whether a close frame may have this code. RFC 6455 section 7.4 and IANA's registry: 1004 to 1006
/// and 1015 must not be sent.
pub(crate) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Decodes a whole close frame. One with [`BAD_GATEWAY`] passes through tungstenite with the code
/// 1013, and gets its code back.
///
/// One without a mask, as a proxy may send it (Caddy 2.6 does when it reloads), gets one of zeros. The
/// connection ends either way; with 1002 as the answer, which the proxy may pass on, the client behind it
/// would not reconnect.
fn read_close(
    context: &mut WebSocketContext,
    frame: &[u8],
    PeerCode { code, at, is_masked }: PeerCode,
) -> Result<Message, Error> {
    let mut frame = frame.to_vec();
    if code == BAD_GATEWAY {
        // The mask is an exclusive or: masked or not, the same bits differ.
        frame[at + 1] ^= (BAD_GATEWAY ^ (BAD_GATEWAY - 1)) as u8;
    }
    if !is_masked {
        frame[1] |= 0x80;
        frame.splice(at..at, [0; 4]);
    }
    let message = context.read(&mut Input(&frame))?;
    Ok(match message {
        Message::Close(Some(close)) => {
            Message::Close(Some(CloseFrame { code: code.into(), ..close }))
        }
        message => message,
    })
}

/// The thread's context, or a new one, with the limits of this session.
fn context(config: &TransportConfig) -> Box<WebSocketContext> {
    let mut context = SPARE.take().unwrap_or_else(|| {
        let limits = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        Box::new(WebSocketContext::new(Role::Server, Some(limits)))
    });
    context.set_config(|limits| {
        limits.max_message_size = Some(config.max_message_bytes);
        limits.max_frame_size = Some(config.frame_limit());
    });
    context
}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        let (reason, limit) = match error {
            Error::Capacity(_) => (CloseReason::TooBig, Some(LimitViolation::Size)),
            Error::Utf8(_) => (CloseReason::InvalidUtf8, None),
            _ => (CloseReason::ProtocolError, None),
        };
        Self { reason, limit, detail: error.to_string() }
    }
}

/// Received bytes as the stream that tungstenite reads. What it writes is dropped.
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

pub(crate) fn close(code: u16, phrase: &str) -> Bytes {
    let reason = Utf8Bytes::from(phrase);
    encode(Frame::close(Some(CloseFrame { code: code.into(), reason })))
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
    use proptest::prelude::*;

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
    fn large_message_leaves_no_large_buffer() {
        let mut codec = Codec::new(Arc::default());
        let input = [frame(&[7; 65_536]), frame(b"next")].concat();
        let mut input = &input[..];
        let large = decode(&mut codec, &mut input);
        assert_eq!(large, vec![7; 65_536]);
        // No other reference to its bytes is left.
        assert!(large.is_unique());
        assert_eq!(decode(&mut codec, &mut input), "next");
        assert!(!codec.mid_message());
    }

    #[test]
    fn only_a_partial_header_is_left_over() {
        let mut codec = Codec::new(Arc::default());
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

    #[test]
    fn frame_above_the_message_limit_is_refused_at_its_header() {
        let config = TransportConfig::default().max_message_bytes(10);
        let whole = frame(&[7; 11]);
        let refused = Codec::new(Arc::new(config)).decode(&mut &whole[..6]).unwrap_err();
        assert_eq!(refused.limit, Some(LimitViolation::Size));
    }

    /// A message in fragments, with a ping after each.
    fn fragmented(text: &str, fragments: usize) -> Vec<u8> {
        let size = text.len().div_ceil(fragments).max(1);
        let mut parts: Vec<_> = text.as_bytes().chunks(size).collect();
        if parts.is_empty() {
            parts.push(b"");
        }
        let last = parts.len() - 1;
        let mut bytes = Vec::new();
        for (nth, part) in parts.into_iter().enumerate() {
            let header = FrameHeader {
                is_final: nth == last,
                mask: Some([1, 2, 3, 4]),
                opcode: OpCode::Data(if nth == 0 { Data::Text } else { Data::Continue }),
                ..FrameHeader::default()
            };
            let frame = Frame::from_payload(header, Bytes::copy_from_slice(part));
            bytes.extend_from_slice(&encode(frame));
            let mut ping = Frame::ping(Bytes::from_static(b"?"));
            ping.header_mut().mask = Some([0; 4]);
            bytes.extend_from_slice(&encode(ping));
        }
        bytes
    }

    /// A client's close frame.
    fn close_frame(code: u16, phrase: &str) -> Vec<u8> {
        let payload = [&code.to_be_bytes()[..], phrase.as_bytes()].concat();
        let header = FrameHeader {
            mask: Some([9, 8, 7, 6]),
            opcode: OpCode::Control(Control::Close),
            ..FrameHeader::default()
        };
        encode(Frame::from_payload(header, payload.into())).to_vec()
    }

    #[test]
    fn codes_that_may_be_sent_are_echoed() {
        for code in 0..=u16::MAX {
            let frame = close_frame(code, "bye");
            let decoded = Codec::new(Arc::default()).decode(&mut &frame[..]);
            // IANA's registry of close codes, less those that never stand in a frame.
            if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                let Message::Close(Some(close)) = decoded.unwrap().unwrap() else { panic!() };
                assert_eq!((u16::from(close.code), close.reason.as_str()), (code, "bye"));
                let reply = close_reply(Some(close));
                assert_eq!(reply[2..], [&code.to_be_bytes()[..], b"bye"].concat());
            } else {
                assert_eq!(decoded.unwrap_err().reason, CloseReason::ProtocolError, "{code}");
            }
        }
    }

    #[test]
    fn close_frame_without_a_mask_is_answered_with_its_code() {
        for code in [1001_u16, BAD_GATEWAY] {
            let [first, second] = code.to_be_bytes();
            let frame = [0x88, 4, first, second, b'u', b'p'];
            let decoded = Codec::new(Arc::default()).decode(&mut &frame[..]).unwrap().unwrap();
            let Message::Close(Some(close)) = decoded else { panic!("{decoded:?}") };
            assert_eq!((u16::from(close.code), close.reason.as_str()), (code, "up"));
        }
    }

    #[test]
    fn close_frame_is_decoded_in_any_pieces() {
        let whole = close_frame(1014, "the gateway");
        for cut in 0..whole.len() {
            let mut codec = Codec::new(Arc::default());
            let mut part = &whole[..cut];
            assert!(codec.decode(&mut part).unwrap().is_none());
            assert_eq!(part.len(), cut, "it is left over");
            let Message::Close(Some(close)) = codec.decode(&mut &whole[..]).unwrap().unwrap()
            else {
                panic!()
            };
            assert_eq!(u16::from(close.code), 1014);
        }
    }

    #[test]
    fn sessions_that_share_a_context_keep_their_own_limits() {
        let narrow = TransportConfig::default().max_message_bytes(10).max_frame_bytes(10);
        let (mut narrow, mut wide) = (Codec::new(Arc::new(narrow)), Codec::new(Arc::default()));
        for _ in 0..3 {
            assert_eq!(decode(&mut wide, &mut &frame(&[7; 1000])[..]).len(), 1000);
            assert_eq!(decode(&mut narrow, &mut &frame(b"0123456789")[..]), "0123456789");
            let refused = narrow.decode(&mut &frame(&[7; 11])[..]).unwrap_err();
            assert_eq!(refused.reason, CloseReason::TooBig);
            narrow = Codec::new(Arc::clone(&narrow.config));
        }
    }

    proptest! {
        /// Sessions of one thread do not mix, in whatever pieces their bytes arrive.
        #[test]
        fn sessions_that_share_a_context_do_not_mix(
            texts in prop::collection::vec(
                prop::collection::vec(("[a-z]{0,20}|[a-z]{300}|[a-z]{6000}", 1usize..4), 0..5), 3,
            ),
            turns in prop::collection::vec((0usize..3, 1usize..3000), 0..200),
        ) {
            let mut codecs: [Codec; 3] = std::array::from_fn(|_| Codec::new(Arc::default()));
            let streams: Vec<Vec<u8>> = texts
                .iter()
                .map(|texts| texts.iter().flat_map(|(text, n)| fragmented(text, *n)).collect())
                .collect();
            let mut sent = [0_usize; 3];
            let mut unread: [Vec<u8>; 3] = Default::default();
            let mut decoded: [Vec<String>; 3] = Default::default();
            let to_the_end = (0..3).map(|who| (who, usize::MAX));
            for (who, bytes) in turns.into_iter().chain(to_the_end) {
                let end = sent[who].saturating_add(bytes).min(streams[who].len());
                unread[who].extend_from_slice(&streams[who][sent[who]..end]);
                sent[who] = end;
                let mut input = &unread[who][..];
                while let Some(message) = codecs[who].decode(&mut input).unwrap() {
                    if let Message::Text(text) = message {
                        decoded[who].push(text.as_str().to_owned());
                    }
                }
                unread[who] = input.to_vec();
            }
            for (decoded, texts) in decoded.iter().zip(&texts) {
                prop_assert!(decoded.iter().eq(texts.iter().map(|(text, _)| text)));
            }
            prop_assert!(codecs.iter().all(|codec| codec.context.is_none()), "nothing is kept");
        }
    }
}
