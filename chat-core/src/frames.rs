//! Bytes that are ready for a socket.

use bytes::{BufMut, Bytes, BytesMut};

/// Largest header of a server's frame: RFC 6455 section 5.2 without a mask.
const MAX_HEADER: usize = 10;

/// One or more WebSocket data frames, text or binary, complete with their headers and in order.
///
/// A server's frames are unmasked, so the same bytes serve every member of a room: build
/// once, clone (a reference count) for each. The layout is that of RFC 6455 section 5.2.
///
/// For several frames there is [`FramesBuilder`]; for a socket that adds the headers itself,
/// [`Frames::payloads`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    bytes: Bytes,
    count: u32,
}

/// The payload of one of several [`Frames`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramePayload<'a> {
    /// That of a text frame.
    Text(&'a str),
    /// That of a binary frame.
    Binary(&'a [u8]),
}

impl Frames {
    /// One frame that holds `text`.
    ///
    /// ```
    /// let frames = chat_core::Frames::text("hi");
    /// assert_eq!(&frames.bytes()[..], b"\x81\x02hi");
    /// assert_eq!(frames.texts().collect::<Vec<_>>(), ["hi"]);
    /// ```
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::one(FINAL_TEXT, text.as_bytes())
    }

    /// One binary frame that holds `payload`.
    ///
    /// ```
    /// let frames = chat_core::Frames::binary(&[7, 9]);
    /// assert_eq!(&frames.bytes()[..], b"\x82\x02\x07\x09");
    /// ```
    #[must_use]
    pub fn binary(payload: &[u8]) -> Self {
        Self::one(FINAL_BINARY, payload)
    }

    fn one(kind: u8, payload: &[u8]) -> Self {
        let mut builder = FramesBuilder::with_capacity(payload.len() + MAX_HEADER);
        builder.push(kind, payload);
        Self { count: builder.count, bytes: builder.bytes.freeze() }
    }

    /// The bytes for the socket.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many frames there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The payloads of the frames, in order.
    ///
    /// ```
    /// use chat_core::{FramePayload, FramesBuilder};
    ///
    /// let mut builder = FramesBuilder::new();
    /// builder.text("move");
    /// builder.binary(&[7, 9]);
    /// let frames = builder.finish().unwrap();
    /// let payloads: Vec<_> = frames.payloads().collect();
    /// assert_eq!(payloads, [FramePayload::Text("move"), FramePayload::Binary(&[7, 9])]);
    /// ```
    pub fn payloads(&self) -> impl Iterator<Item = FramePayload<'_>> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || {
            let (kind, payload, after) = split_frame(rest)?;
            rest = after;
            Some(match kind {
                FINAL_BINARY => FramePayload::Binary(payload),
                _ => FramePayload::Text(std::str::from_utf8(payload).ok()?),
            })
        })
    }

    /// The texts in the frames, in order, without the binary frames.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.payloads().filter_map(|payload| match payload {
            FramePayload::Text(text) => Some(text),
            FramePayload::Binary(_) => None,
        })
    }
}

/// Collects texts and binary payloads into [`Frames`], which are sent or refused as a whole.
///
/// ```
/// use chat_core::FramesBuilder;
///
/// let mut builder = FramesBuilder::new();
/// for number in 0..3_u8 {
///     builder.binary(&[number]);
/// }
/// assert_eq!(builder.finish().unwrap().count(), 3);
/// assert!(FramesBuilder::new().finish().is_none());
/// ```
#[derive(Debug, Default)]
pub struct FramesBuilder {
    bytes: BytesMut,
    count: u32,
}

impl FramesBuilder {
    /// A builder without frames.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder with room for `bytes`, headers included: up to 10 bytes for each frame.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(bytes), count: 0 }
    }

    /// Appends a text frame.
    pub fn text(&mut self, text: &str) {
        self.push(FINAL_TEXT, text.as_bytes());
    }

    /// Appends a binary frame.
    pub fn binary(&mut self, payload: &[u8]) {
        self.push(FINAL_BINARY, payload);
    }

    /// Appends a text frame whose payload is `text`, which must be UTF-8.
    pub(crate) fn utf8(&mut self, text: &[u8]) {
        self.push(FINAL_TEXT, text);
    }

    fn push(&mut self, kind: u8, payload: &[u8]) {
        self.bytes.reserve(payload.len() + MAX_HEADER);
        put_header(&mut self.bytes, kind, payload.len());
        self.bytes.put_slice(payload);
        self.count += 1;
    }

    /// The frames; `None` if there are none.
    #[must_use]
    pub fn finish(self) -> Option<Frames> {
        (self.count > 0).then(|| Frames { bytes: self.bytes.freeze(), count: self.count })
    }
}

/// The first byte of a frame that is a whole message: FIN, and the opcode.
const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;

fn put_header(out: &mut BytesMut, kind: u8, len: usize) {
    out.put_u8(kind);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..=125), _) => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

/// The first byte of a frame, its payload, and what follows on it.
fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, short], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match short {
        126 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        127 => {
            let (len, rest) = rest.split_first_chunk::<8>()?;
            (usize::try_from(u64::from_be_bytes(*len)).ok()?, rest)
        }
        short => (usize::from(short), rest),
    };
    let (payload, rest) = rest.split_at_checked(len)?;
    Some((kind, payload, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_all_three_lengths() {
        assert_eq!(&Frames::text("hi").bytes()[..], b"\x81\x02hi");
        assert_eq!(&Frames::text(&"x".repeat(126)).bytes()[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&Frames::text(&"x".repeat(65_535)).bytes()[..4], b"\x81\x7e\xff\xff");
        assert_eq!(
            &Frames::text(&"x".repeat(65_536)).bytes()[..10],
            b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
        );
    }

    #[test]
    fn no_texts_no_frames() {
        assert_eq!(FramesBuilder::default().finish(), None);
    }

    proptest! {
        #[test]
        fn payloads_round_trip_in_order(
            messages in prop::collection::vec((any::<bool>(), ".{0,300}"), 1..8),
        ) {
            let mut builder = FramesBuilder::default();
            for (is_text, message) in &messages {
                match is_text {
                    true => builder.text(message),
                    false => builder.binary(message.as_bytes()),
                }
            }
            let frames = builder.finish().unwrap();
            prop_assert_eq!(frames.count() as usize, messages.len());
            let payloads = messages.iter().map(|(is_text, message)| match is_text {
                true => FramePayload::Text(message),
                false => FramePayload::Binary(message.as_bytes()),
            });
            prop_assert_eq!(frames.payloads().collect::<Vec<_>>(), payloads.collect::<Vec<_>>());
            let texts = messages.iter().filter(|(is_text, _)| *is_text).map(|(_, text)| text);
            prop_assert!(frames.texts().eq(texts));
        }
    }
}
